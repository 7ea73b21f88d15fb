import pytest
import torch

from ptune.heads import ClassificationHead


def head(**settings):
    made = ClassificationHead(16, 3, **settings)
    torch.nn.init.normal_(made.linear.weight)
    return made.eval()


def test_a_new_head_is_undecided_whatever_the_state():
    assert torch.equal(ClassificationHead(16, 3)(torch.randn(5, 16)), torch.zeros(5, 3))


def test_the_size_of_a_state_does_not_matter():
    made, states = head(), torch.randn(5, 16)
    torch.testing.assert_close(made(1000.0 * states), made(states), rtol=1e-4, atol=1e-4)


def test_trained_are_a_matrix_and_a_bias():
    assert sum(p.numel() for p in ClassificationHead(16, 3).parameters()) == 16 * 3 + 3


@pytest.mark.parametrize("autocast", [False, True])
def test_logits_are_float32_whatever_the_backbone_computes_in(autocast):
    made, states = head(), torch.randn(5, 16).bfloat16()
    expected = made(states.float())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = made(states)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


def test_numbers_of_the_state_are_dropped_in_training_only():
    made, states = head(dropout=0.5), torch.randn(5, 16)
    assert torch.equal(made(states), made(states))
    made.train()
    assert not torch.equal(made(states), made(states))


STATE = torch.tensor([[1.0, -2.0]])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("plain", 1.0 * 3 - 2.0 * 5 + 7),
        ("tanh", 0.7615942 * 3 - 0.9640276 * 5 + 7),
        ("gelu", 0.8413447 * 3 - 0.0455003 * 5 + 7),
    ],
)
def test_other_forms_are_those_of_transformers_classes(form, expected):
    made = ClassificationHead(2, 1, form=form)  # its dense map starts as the identity
    torch.nn.init.constant_(made.linear.bias, 7.0)
    made.linear.weight.data = torch.tensor([[3.0, 5.0]])
    assert made(STATE).item() == pytest.approx(expected, abs=1e-5)


def test_a_bent_head_trains_its_dense_map():
    names = {name for name, _ in ClassificationHead(2, 1, form="tanh").named_parameters()}
    assert names == {"dense.weight", "dense.bias", "linear.weight", "linear.bias"}
