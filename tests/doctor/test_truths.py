"""Every truth holds on sound models, and is broken by a fault in what it looks at."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
import transformers as hf

from ptune.backbone import Backbone
from ptune.doctor import examine, small, truths
from ptune.doctor.patient import Patient
from ptune.errors import ArchitectureError
from ptune.inject import attention, call, session
from ptune.inject.embedding import EmbeddingHooks


def outcome(truth, backbone):
    return examine(backbone, chosen=[truth]).findings[0].outcome


@pytest.mark.parametrize("name", ["gemma2-window-4", "modernbert-window", "bloom"])
def test_all_truths_hold_on_a_sound_model(name):
    report = examine(tiny.backbone(name))
    assert report.broken == ()
    said = {found.truth: found.outcome for found in report.findings}
    assert said["deep prompts"] == said["shallow prompts"] == said["the backbone's bits"] == "holds"
    window = "holds" if "window" in name else "not examined"
    assert said["sliding windows"] == window
    assert said["generate"] == ("holds" if name in tiny.DECODERS else "not examined")


def test_two_examinations_say_the_same():
    first, second = (examine(tiny.backbone("llama")).document() for _ in range(2))
    assert first == second


def test_states_that_are_not_the_models_break_the_first_truth(monkeypatch):
    b = tiny.backbone("llama")
    own = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *a, **k: 1.01 * own(*a, **k))
    assert outcome(truths.no_prompt, b) == "broken"


def test_a_vector_in_a_wrong_place_breaks_shallow_prompts(monkeypatch):
    b = tiny.backbone("llama")
    own = EmbeddingHooks._place
    monkeypatch.setattr(
        EmbeddingHooks,
        "_place",
        lambda self, *a: None if (made := own(self, *a)) is None else made.roll(1, dims=1),
    )
    assert outcome(truths.shallow, b) == "broken"


@pytest.mark.parametrize("name", ["llama", "bert", "bloom"])
def test_keys_beside_their_values_break_deep_prompts(monkeypatch, name):
    b = tiny.backbone(name)
    own = call._ending_in_zeros
    turned = iter(range(10**6))  # every second table: the values, and not their keys

    def swapped(tables):
        made = own(tables)
        return made if next(turned) % 2 else torch.cat([made[:-1].flip(0), made[-1:]])

    monkeypatch.setattr(call, "_ending_in_zeros", swapped)
    assert outcome(truths.deep, b) == "broken"


def test_another_rows_prompt_breaks_a_row_in_any_batch(monkeypatch):
    b = tiny.backbone("llama")
    own = call.see
    monkeypatch.setattr(
        call,
        "see",
        lambda group, *a: own(
            type(group)(**{k: getattr(group, k) for k in group.__slots__ if k != "prompt"},
                        prompt=group.prompt * 0 + int(group.prompt.max())),
            *a,
        ),
    )  # fmt: skip
    assert outcome(truths.batches, b) == "broken"


def test_a_prompt_that_leaves_the_window_breaks_sliding_windows(monkeypatch):
    b = tiny.backbone("mistral-window-4")
    own = call.see

    def as_far_as_the_window(group, bank, causal, window):
        seen = own(group, bank, causal, window)
        near = seen.distance < (window or 10**6)
        return type(seen)(seen.key_at, seen.key_place, seen.distance, seen.allowed & near,
                          seen.slots)  # fmt: skip

    monkeypatch.setattr(call, "see", as_far_as_the_window)
    found = examine(b, chosen=[truths.windows]).findings[0]
    assert found.outcome == "broken"
    assert "do not see the prompt" in found.note


def test_a_prompt_without_a_gradient_breaks_gradients(monkeypatch):
    b = tiny.backbone("llama")
    own = call._ending_in_zeros
    monkeypatch.setattr(call, "_ending_in_zeros", lambda tables: 0 * own(tables))
    found = examine(b, chosen=[truths.gradients]).findings[0]
    assert (found.outcome, found.note[:7]) == ("broken", "6 of 7 ")


def test_a_layer_that_meets_another_site_in_its_second_run_breaks_checkpointing(monkeypatch):
    b = tiny.backbone("albert")
    own = session.Injection.again
    monkeypatch.setattr(
        session.Injection, "again", lambda self, c, counts, layer: own(self, c, {}, layer)
    )
    assert outcome(truths.checkpointing, b) == "broken"


def test_a_prompt_that_generate_loses_breaks_generate(monkeypatch):
    b = tiny.backbone("llama")
    assert outcome(truths.generating, b) == "holds"
    monkeypatch.setattr(
        attention, "_in_front", lambda call, bank, key, value, mask, slopes: (key, value, mask)
    )
    assert outcome(truths.generating, b) == "broken"


def test_beams_that_take_their_neighbours_prompt_break_beams(monkeypatch):
    b = tiny.backbone("llama")
    own = attention._in_front

    def turned(now, *rest):
        if len(now.rows) == 1:
            return own(now, *rest)
        other = copy.copy(now)
        other.rows = now.rows.flip(0)
        return own(other, *rest)

    monkeypatch.setattr(attention, "_in_front", turned)
    assert outcome(truths.beams, b) == "broken"


def test_a_number_that_is_not_finite_breaks_bfloat16(monkeypatch):
    b = tiny.backbone("llama")
    own = attention.attend

    def overflowing(query, *rest, **named):
        answer = own(query, *rest, **named)
        with_prompt = rest[0].shape[2] > query.shape[2]
        return answer / 0 if with_prompt and query.dtype == torch.bfloat16 else answer

    monkeypatch.setattr(attention, "attend", overflowing)
    assert outcome(truths.bfloat16, b) == "broken"


def test_a_changed_weight_and_a_hook_that_stays_are_found():
    b = tiny.backbone("llama")

    def change(patient: Patient):
        with torch.no_grad():
            patient.backbone.body.norm.weight[0] += 1e-3
        return truths.no_prompt(patient)

    found = examine(b, chosen=[change]).findings[-1]
    assert (found.outcome, found.note) == (
        "broken",
        "1 weights changed, the first: model.norm.weight",
    )

    def hook(patient: Patient):
        patient.backbone.body.norm.register_forward_hook(lambda *_: None)
        return truths.no_prompt(patient)

    found = examine(b, chosen=[hook]).findings[-1]
    assert (found.outcome, found.note) == (
        "broken",
        "hooks were left or lost in 1 modules: model.norm",
    )


def test_hooks_that_a_model_brings_are_its_own():
    b = tiny.backbone("llama")
    b.model.enable_input_require_grads()
    assert examine(b, chosen=[truths.no_prompt]).findings[-1].outcome == "holds"


def test_an_error_of_the_models_code_is_a_broken_truth_and_no_traceback():
    def failing(patient):
        raise IndexError("index out of range\nand more")

    found = examine(tiny.backbone("llama"), chosen=[failing]).findings[0]
    assert (found.outcome, found.note) == ("broken", "IndexError: index out of range")


def test_deep_prompts_are_refused_where_there_is_no_attention():
    torch.manual_seed(0)
    config = hf.MambaConfig(
        vocab_size=96, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    b = Backbone.load(model, tokenizer=tiny.tokenizer())
    report = examine(b, chosen=[truths.shallow, truths.deep, truths.batches])
    assert [found.outcome for found in report.findings[:3]] == ["holds", "refused", "holds"]
    assert report.broken == ()
    assert report.batches.startswith("padded")


@pytest.mark.parametrize("name", ["t5", "t5-gated", "bart", "marian"])
def test_all_truths_hold_on_a_sound_encoder_decoder(name):
    report = examine(tiny.backbone(name))
    assert report.broken == ()
    said = {found.truth: found.outcome for found in report.findings}
    assert {truth for truth, outcome in said.items() if outcome != "holds"} == {"sliding windows"}
    assert [kind.kind for kind in report.sites] == ["encoder", "decoder", "cross"]
    assert report.layers == 5


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_a_deep_prompt_that_one_kind_of_attention_loses_breaks_deep_prompts(monkeypatch, kind):
    b = tiny.backbone("t5")
    own = call.Call.bank
    lost = {at for at, site in enumerate(b.geometry.sites) if site.kind == kind}
    monkeypatch.setattr(
        call.Call, "bank", lambda self, site, *a: None if site in lost else own(self, site, *a)
    )
    assert outcome(truths.deep, b) == "broken"


def test_a_prompt_with_a_place_in_t5s_bias_breaks_deep_prompts(monkeypatch):
    b = tiny.backbone("t5")
    own = call._with_bias

    def shifted(seen, *rest):
        made = own(seen, *rest)
        made.bias[..., : seen.slots] += 1
        return made

    monkeypatch.setattr(call, "_with_bias", shifted)
    assert outcome(truths.deep, b) == "broken"


@pytest.mark.parametrize("side", [0, 1])
def test_a_vector_in_a_wrong_place_on_one_side_breaks_shallow_prompts(monkeypatch, side):
    b = tiny.backbone("bart")
    own, passes = EmbeddingHooks._place, []

    def turned(self, *a):
        made = own(self, *a)
        passes.append(made)
        return made.roll(1, dims=1) if made is not None and len(passes) % 2 != side else made

    monkeypatch.setattr(EmbeddingHooks, "_place", turned)
    assert outcome(truths.shallow, b) == "broken"


def test_another_rows_encoder_side_breaks_a_row_in_any_batch(monkeypatch):
    b = tiny.backbone("bart")
    own = call.Call.groups

    def turned(self, kind):
        groups, order = own(self, kind)
        if kind != "cross":
            return groups, order
        keys = ("key_at", "key_real")
        made = [replace(g, **{key: getattr(g, key).flip(0) for key in keys}) for g in groups]
        return tuple(made), order

    monkeypatch.setattr(call.Call, "groups", turned)
    assert outcome(truths.batches, b) == "broken"


def test_a_prompt_that_the_decoder_loses_while_it_generates_breaks_generate(monkeypatch):
    b = tiny.backbone("t5")
    own = attention._in_front

    def lost(now, bank, key, value, mask, front):
        if mask.shape[2] == 1:  # a step of the decoder
            return key, value, mask
        return own(now, bank, key, value, mask, front)

    assert outcome(truths.generating, b) == "holds"
    monkeypatch.setattr(attention, "_in_front", lost)
    assert outcome(truths.generating, b) == "broken"


@pytest.mark.parametrize("kind", ["SwitchTransformersConfig", "NllbMoeConfig", "M2M100Config"])
def test_kin_of_t5_and_bart_with_experts_or_positions_from_ids_answer_rightly(kind):
    model = small.model_of(getattr(hf, kind)(), kind)
    b = Backbone.load(model, tokenizer=small.Ids(model.config))
    report = examine(b, chosen=[truths.shallow, truths.deep, truths.generating])
    assert {found.outcome for found in report.findings} == {"holds"}


def test_an_encoder_decoder_that_hides_its_embeddings_is_refused_with_a_sentence():
    model = small.model_of(hf.FSMTConfig(), "fsmt")
    with pytest.raises(ArchitectureError, match="two sides do not say which modules their input"):
        Backbone.load(model, tokenizer=small.Ids(model.config))
