import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode

from ptune.batch import Branch, PromptTensors, TokenSequence
from ptune.bench.floor import Counts, body_parameters, count, matrix_rates, step_flops
from ptune.run import run

ROWS = (
    TokenSequence((-1, -2, 5, 6, 7), reads=(4,), shared=2),
    TokenSequence((-1, -2, 8), reads=(2,), shared=2),
)


def test_a_head_that_is_equal_counts_once_and_a_padded_line_is_as_long_as_the_longest():
    assert count(ROWS, share=True) == Counts(real=2 + 3 + 1, padded=2 * 5, words=2)
    assert count(ROWS, share=False) == Counts(real=5 + 3, padded=2 * 5, words=2)


def test_a_label_continues_its_row_and_asks_for_the_vocabulary_where_it_is_longer_than_a_token():
    branches = (Branch((9, 10), (0, 1)), Branch((11,), (0,)))
    rows = [TokenSequence((-1, 5, 6), reads=(2,), shared=1, branches=branches)]
    counts = count(rows, share=True, over_labels=True)
    # Padded: the row by itself, and once for each label, on lines of five.
    assert counts == Counts(real=3 + 2 + 1, padded=3 * 5, words=2 + 1)


def test_the_body_is_the_matrices_of_its_layers():
    hidden, middle, kv = 32, 48, 2 * 8
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * middle
    assert body_parameters(tiny.backbone("llama").body) == 3 * layer
    layer = 4 * hidden * hidden + 2 * hidden * middle
    assert body_parameters(tiny.backbone("bert").body) == 3 * layer  # and no pooler


def test_the_floor_is_what_torch_counts_of_matrix_products():
    """torch's own counter sees every product; those of attention are no `mm`."""
    backbone = tiny.backbone("llama")
    prompt = PromptTensors(vectors=torch.randn(2, 32, requires_grad=True))
    with FlopCounterMode(display=False) as counter:
        batch = backbone.pack(ROWS)
        run(backbone, [prompt], batch, read="logits").sum().backward()
    products = counter.get_flop_counts()["Global"]
    counted = sum(n for op, n in products.items() if str(op) in ("aten.mm", "aten.addmm"))
    counts = count(ROWS, share=True)
    head = backbone.model.get_output_embeddings().weight.numel()
    body = body_parameters(backbone.body)
    assert counted == step_flops(body=body, tokens=counts.real, head=head, reads=counts.words)


def test_less_is_gone_back_through_where_the_prompt_enters_above():
    whole = step_flops(body=100, tokens=7, head=0, reads=0)
    assert step_flops(body=100, tokens=7, head=0, reads=0, backward_share=0.5) == whole * 3 / 4


def test_rates_are_of_the_shapes_that_a_body_of_this_width_has():
    rates = matrix_rates(torch.float32, 8, tokens=4, seconds=0.001)
    assert list(rates) == ["4x8 to 24", "4x8 to 32", "4x32 to 8", "2048 square"]
    assert all(rate > 0 for rate in rates.values())
