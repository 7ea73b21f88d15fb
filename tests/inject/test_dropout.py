"""The backbone's own dropout in ptune's passes, draw for draw beside the model's own train mode."""

import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers as hf

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import EmbeddingEncoder, KeysValues
from ptune.inject import attention
from ptune.inject.attention import attend
from ptune.inject.call import Seen
from ptune.inject.dropout import Dropout
from ptune.run import run
from ptune.trainable import PromptedBackbone, TrainablePrompt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import families

IDS = (12, 40, 33, 17, 25, 61)
RATE = 0.3
NAMES = (
    *("gpt2", "gpt_neo", "gptj", "codegen", "bloom", "llama", "gemma2 (window)", "mixtral"),
    *("gpt_oss (window)", "falcon (rotary, multi-query)", "falcon (new, grouped)"),
    *("falcon (ALiBi)", "mpt", "jamba (hybrid)"),
    *("bert", "albert (small embeddings)", "distilbert", "deberta", "deberta-v2", "deberta-v3"),
    *("mpnet", "modernbert (window)", "xlnet", "t5", "bart"),
)


def often(monkeypatch, name):
    """A tiny model of a family with all of its rates at 0.3."""
    make = families.FAMILIES[name]

    def config():
        made = make()
        for one in (made, *(v for v in vars(made).values() if isinstance(v, hf.PreTrainedConfig))):
            rates = [key for key in vars(one) if "drop" in key and "layerdrop" not in key]
            # MPT's is declared as a whole number, and checked.
            vars(one).update(dict.fromkeys(rates, RATE))
        return made

    monkeypatch.setitem(families.FAMILIES, name, config)
    return Backbone.load(families.make(name), tokenizer=tiny.tokenizer())


def batch_of(b, *rows):
    sequences = [TokenSequence(ids, reads=tuple(range(len(ids)))) for ids in rows]
    if b.geometry.two_sided:
        sequences = [TokenSequence(one.ids, decoder=one) for one in sequences]
    return b.pack(sequences)


def states(b, *rows, prompt=None, seed=5, dropout=True):
    torch.manual_seed(seed)
    return run(b, [prompt or PromptTensors()], batch_of(b, *rows), dropout=dropout)


def native(b, ids):
    """The states of the model by its own code, in train mode."""
    ids = torch.tensor([ids])
    b.model.train()
    torch.manual_seed(5)
    with torch.no_grad():
        if b.geometry.two_sided:
            said = b.model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
            found = said.decoder_hidden_states[-1][0]
        else:
            found = b.body(input_ids=ids).last_hidden_state[0]
    b.model.eval()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_falls_out_is_what_falls_out_of_the_model_in_train_mode(monkeypatch, name):
    b = often(monkeypatch, name)
    expected = native(b, IDS)
    with torch.no_grad():
        found = states(b, IDS)
        usual = states(b, IDS, dropout=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((found - usual).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["fused", "capped", "grouped", "grouped and capped"])
def test_weights_of_attention_fall_out_and_the_others_grow(kind):
    """The values are unit vectors, so that an answer is the weights themselves."""
    keys, rows = 40, 50
    generator = torch.Generator().manual_seed(0)
    heads = 4 if "grouped" in kind else 2
    query = torch.randn(rows, heads, 3, 8, generator=generator)
    key = torch.randn(rows, 2, keys, 8, generator=generator)
    value = torch.eye(keys).expand(rows, 2, keys, keys)
    place = torch.arange(keys).expand(rows, keys)
    everywhere = torch.zeros(rows, 3, keys, dtype=torch.long)
    seen = Seen(place, place, everywhere, everywhere == 0, 0)
    softcap = 5.0 if "capped" in kind else None
    usual = attend(query, key, value, seen, softcap=softcap)
    torch.manual_seed(0)
    dropped = attend(query, key, value, seen, softcap=softcap, dropout=0.25)
    gone = dropped == 0
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(dropped[~gone], (usual / 0.75)[~gone])
    assert torch.equal(attend(query, key, value, seen, softcap=softcap, dropout=0.0), usual)


def deep(b):
    generator = torch.Generator().manual_seed(1)
    return PromptTensors(
        deep={
            site: KeysValues(*torch.randn(2, 3, s.shape.kv_heads, 8, generator=generator))
            for site, s in enumerate(b.geometry.sites)
        }
    )


def test_weights_of_a_deep_prompts_keys_fall_out_too():
    b = tiny.backbone("llama")
    for layer in b.model.model.layers:
        layer.self_attn.attention_dropout = 1.0
    prompt = deep(b)
    nothing = states(b, IDS)  # no weight is left, of no key
    torch.testing.assert_close(states(b, IDS, prompt=prompt), nothing, rtol=0, atol=0)
    usual = states(b, IDS, prompt=prompt, dropout=False)
    assert not torch.allclose(usual, nothing, atol=0.1)


def test_one_call_for_a_whole_pack_is_not_asked_for_dropout():
    assert attention._is_plain({"dropout": 0.0}, None, 9)
    assert not attention._is_plain({"dropout": 0.1}, None, 9)


def test_checkpointed_layers_draw_again_what_they_drew(monkeypatch):
    b = often(monkeypatch, "bert")
    found = []
    for checkpointing in (False, True):
        b.gradient_checkpointing = checkpointing
        vectors = torch.full((2, 32), 0.1).requires_grad_()
        said = states(b, (-1, 12, 40), (-2, 33, 17, 25), prompt=PromptTensors(vectors=vectors))
        (gradient,) = torch.autograd.grad(said.sin().sum(), vectors)
        found.append((said.detach(), gradient))
    (one, ours), (other, theirs) = found
    assert torch.equal(one, other)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_pass_without_dropout_between_two_with_it_is_as_ever(monkeypatch):
    b = often(monkeypatch, "gpt2")
    alone = states(b, IDS, dropout=False)
    drawn = states(b, IDS)
    with b.injected():
        assert torch.equal(states(b, IDS), drawn)
        assert torch.equal(states(b, IDS, dropout=False), alone)
        assert torch.equal(states(b, IDS), drawn)
    assert torch.equal(states(b, IDS, dropout=False), alone)


@pytest.mark.parametrize("before", [False, True])
def test_the_model_is_left_in_the_mode_in_which_it_was(monkeypatch, before):
    b = often(monkeypatch, "bert")
    b.model.train(before)
    b.model.base_model.encoder.layer[1].train(not before)
    modes = [module.training for module in b.model.modules()]
    states(b, IDS)
    assert [module.training for module in b.model.modules()] == modes


def test_a_norm_over_a_batch_counts_nothing(monkeypatch):
    b = often(monkeypatch, "bert")
    norm = torch.nn.BatchNorm1d(32).eval()
    b.model.base_model.encoder.layer[0].output.norm = norm

    def normed(module, args, said):
        return norm(said.transpose(1, 2)).transpose(1, 2)

    b.model.base_model.encoder.layer[0].output.register_forward_hook(normed)
    states(b, IDS)
    assert int(norm.num_batches_tracked) == 0
    assert torch.equal(norm.running_mean, torch.zeros(32))


def test_modules_that_train_mode_would_change_stay_as_they_are():
    torch.manual_seed(0)
    model = hf.IBertModel(hf.IBertConfig(**tiny.SMALL)).eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    dropout = Dropout(model)
    dropout.turn(True)
    with torch.no_grad():
        one, two = (model(torch.tensor([IDS])).last_hidden_state for _ in "ab")
    assert not torch.equal(one, two)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_no_layer_is_left_out(monkeypatch):
    """Of one layer that is always left out, nothing of a prompt would be left."""
    b = often(monkeypatch, "bart")
    expected = states(b, IDS)
    for side in (b.model.model.encoder, b.model.model.decoder):
        side.layerdrop = 1.0
    torch.testing.assert_close(states(b, IDS), expected, rtol=0, atol=0)
    assert b.model.model.decoder.layerdrop == 1.0


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able:FutureWarning")
def test_checkpointing_of_transformers_own_stays_off(monkeypatch):
    b = often(monkeypatch, "gpt2")
    prompt = TrainablePrompt(shallow=EmbeddingEncoder(2, 32, initial=torch.zeros(2, 32)))
    module = PromptedBackbone(b, prompt, backbone_dropout=True)
    gradients = []
    for switch in (b.model.gradient_checkpointing_disable, b.model.gradient_checkpointing_enable):
        switch()
        torch.manual_seed(5)
        loss = module(torch.tensor([IDS]))["logits"].sin().sum()
        (gradient,) = torch.autograd.grad(loss, prompt.shallow.weight)
        gradients.append(gradient)
    assert torch.equal(*gradients)
    assert b.model.transformer.h[0].gradient_checkpointing


def test_a_module_in_train_mode_draws_where_it_is_told_to(monkeypatch):
    b = often(monkeypatch, "gpt2")
    for block in b.model.transformer.h:
        block.attn.attn_dropout.p = 0.0  # groups of a pack draw their weights one after the other
    prompt = TrainablePrompt(shallow=EmbeddingEncoder(2, 32, initial=torch.zeros(2, 32)))
    ids = torch.tensor([IDS])
    said = {}
    for told in (False, True):
        module = PromptedBackbone(b, prompt, backbone_dropout=told)
        for mode in (True, False):
            torch.manual_seed(5)
            said[told, mode] = module.train(mode)(ids)["logits"].detach()
    assert torch.equal(said[True, False], said[False, False])
    assert torch.equal(said[False, True], said[False, False])
    vectors = torch.cat([torch.zeros(2, 32), b.model.get_input_embeddings()(ids)[0]])
    b.model.train()
    torch.manual_seed(5)
    with torch.no_grad():
        expected = b.model(inputs_embeds=vectors[None]).logits[:, 2:]
    torch.testing.assert_close(said[True, True], expected, rtol=1e-4, atol=1e-4)
