"""A prompt on a backbone that carries a trained LoRA of PEFT's; PEFT's own model is the oracle."""

import pytest
import tiny
import torch

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.doctor import examine
from ptune.encoders import KeysValues
from ptune.errors import BackboneError
from ptune.generation import generate
from ptune.run import run

peft = pytest.importorskip("peft")
# Its own calls of what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ROW = (12, 40, 33, 17, 25, 61)


def with_lora(name="llama", seed=1, **settings):
    """A model of PEFT's whose LoRA is far from nothing."""
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, **settings)
    wrapped = peft.get_peft_model(tiny.model(name), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return wrapped


def load(model):
    return Backbone.load(model, tokenizer=tiny.tokenizer())


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def logits(b, ids, prompt):
    sequence = TokenSequence(tuple(ids), reads=tuple(range(len(ids))))
    return run(b, [prompt], b.pack([sequence]), read="logits")


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
    ],
    ids=["all-linear", "saved", "embeddings"],
)
def test_virtual_tokens_on_a_lora_are_embeddings_of_pefts_own_model(settings):
    wrapped = with_lora(**settings).eval()
    vectors = drawn(2, 32)
    with torch.no_grad():
        words = wrapped.get_input_embeddings()(torch.tensor([ROW]))
        embedded = torch.cat([vectors[None, :1], words, vectors[None, 1:]], dim=1)
        expected = wrapped(inputs_embeds=embedded).logits[0]
        plain = wrapped(input_ids=torch.tensor([ROW])).logits[0]
    b = load(wrapped)
    equal(logits(b, (-1, *ROW, -2), PromptTensors(vectors=vectors)), expected)
    equal(logits(b, ROW, PromptTensors()), plain)
    assert not torch.allclose(logits(tiny.backbone("llama"), ROW, PromptTensors()), plain, atol=0.1)


def test_a_deep_prompt_on_a_lora_is_the_cache_of_pefts_own_model():
    wrapped = with_lora(target_modules=["k_proj", "v_proj"]).eval()
    text, row = torch.tensor([ROW]), torch.tensor([ROW[::-1]])
    with torch.no_grad():
        cache = wrapped(input_ids=text, use_cache=True)[tiny.CACHE]
        pairs = {
            site: KeysValues(one.keys[0].transpose(0, 1).clone(), one.values[0].transpose(0, 1))
            for site, one in enumerate(cache.layers)
        }
        expected = wrapped(input_ids=torch.cat([text, row], dim=1)).logits[0, len(ROW) :]
    prompt = PromptTensors(deep=pairs, offset=len(ROW))
    equal(logits(load(wrapped), ROW[::-1], prompt), expected)


def test_a_lora_that_was_being_trained_is_frozen_and_its_dropout_is_off():
    wrapped = with_lora(target_modules="all-linear").train()
    b = load(wrapped)
    assert not any(weight.requires_grad for weight in wrapped.parameters())
    first, second = (logits(b, ROW, PromptTensors()) for _ in range(2))
    assert torch.equal(first, second)
    vectors = drawn(1, 32).requires_grad_()
    logits(b, (-1, *ROW), PromptTensors(vectors=vectors)).sin().sum().backward()
    assert (vectors.grad != 0).all()


def test_a_model_that_is_loaded_twice_has_its_adapters_twice():
    model = with_lora()
    first, second = load(model), load(model)
    assert first.adapters == second.adapters
    assert all(".lora_" in name for name in first.adapters)
    assert len(first.adapters) > 0


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_all_that_the_doctor_tries_holds_on_a_lora(name):
    targets = {"llama": ["q_proj", "down_proj"], "t5": ["q", "v"], "bert": ["query"]}
    report = examine(load(with_lora(name, target_modules=targets[name])))
    assert report.broken == ()
    assert {found.truth: found.outcome for found in report.findings}["deep prompts"] == "holds"


def test_the_fingerprint_tells_loras_apart_and_from_no_lora():
    def prints(model):
        return load(model).fingerprint

    one = prints(with_lora(target_modules=["q_proj"]))
    assert one == prints(with_lora(target_modules=["q_proj"]))
    other = prints(with_lora(target_modules=["q_proj"], seed=2))
    assert one["architecture"] == other["architecture"]
    assert one["weights"] != other["weights"]
    merged = prints(with_lora(target_modules=["q_proj"]).merge_and_unload())
    none = prints(tiny.model("llama"))
    assert merged["architecture"] == none["architecture"] != one["architecture"]
    assert merged["weights"] != none["weights"]


def test_the_fingerprint_tells_which_of_two_adapters_is_in_force():
    wrapped = with_lora(target_modules=["q_proj"])
    wrapped.add_adapter("second", peft.LoraConfig(target_modules=["q_proj"]))
    first = load(wrapped).fingerprint
    wrapped.set_adapter("second")
    assert load(wrapped).fingerprint["weights"] != first["weights"]


def test_a_merged_lora_says_what_the_unmerged_one_says():
    one = load(with_lora(target_modules="all-linear"))
    merged = load(with_lora(target_modules="all-linear").merge_and_unload())
    prompt = PromptTensors(vectors=drawn(2, 32))
    ids = (-1, *ROW, -2)
    equal(logits(one, ids, prompt), logits(merged, ids, prompt))
    rows = [TokenSequence(ids)]
    said = [generate(b, [prompt], rows, max_new_tokens=4) for b in (one, merged)]
    assert said[0] == said[1]


def test_a_soft_prompt_of_pefts_in_the_model_is_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(BackboneError) as error:
        load(peft.get_peft_model(tiny.model("llama"), config))
    assert str(error.value) == (
        "The model carries a soft prompt of PEFT's, which a backbone has no place for. Load the "
        "model without it, and the prompt's folder with `ptune import`."
    )


def test_what_is_no_model_of_transformers_is_refused():
    with pytest.raises(BackboneError, match=r"^Linear is no model of transformers"):
        load(torch.nn.Linear(2, 2))
