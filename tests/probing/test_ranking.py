"""Ranks and scores, beside an oracle that walks down the sorted logits."""

import math

import pytest
import tiny
import torch
from oracles import slow_ranks

from ptune.batch import PromptTensors
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.evaluation import evaluate_examples
from ptune.probing.ranking import fact_task, ranks, scores_of
from ptune.probing.templates import fitted

WORDS = ["one", "two", "three", "good", "bad", "very"]


def with_mask(backbone):
    backbone.tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return backbone


@pytest.fixture(scope="module")
def llama():
    return tiny.backbone("llama")


@pytest.fixture(scope="module")
def bert():
    return with_mask(tiny.backbone("bert"))


@pytest.mark.parametrize("listed", [False, True])
def test_ranks_and_scores_are_those_of_a_walk_down_the_sorted_logits(listed):
    generator = torch.Generator().manual_seed(1)
    # Few different values, so that many tokens are equal.
    logits = torch.randint(0, 6, (60, 25), generator=generator).float()
    allowed = torch.tensor([0, 3, 4, 7, 9, 12, 13, 14, 15, 16, 20, 21, 24]) if listed else None
    known = list(range(25)) if allowed is None else allowed.tolist()
    right = torch.tensor([known[at % len(known)] for at in range(60)])
    found = ranks(logits, right, allowed).tolist()
    slow = [
        slow_ranks.rank_of(row, one, None if allowed is None else set(known))
        for row, one in zip(logits.tolist(), right.tolist(), strict=True)
    ]
    assert found == slow
    assert len(set(found)) > 8
    expected = slow_ranks.scores(logits.tolist(), right.tolist(), set(known))
    assert scores_of(found) == pytest.approx(expected, abs=1e-12)


def test_the_tenth_place_is_within_ten_and_the_eleventh_is_not():
    assert scores_of([10])["p_at_10"] == 1.0
    assert scores_of([11])["p_at_10"] == 0.0


def test_a_score_that_is_no_number_is_never_a_hit():
    logits = torch.full((1, 4), math.nan)
    assert ranks(logits, torch.tensor([2])).tolist() == [5]


@pytest.mark.parametrize("words", [None, WORDS])
def test_a_causal_model_is_scored_by_its_next_token(llama, words):
    rows = [{"subject": "the film"}, {"subject": "my late parcel"}, {"subject": "text"}] * 3
    answers = ["good", "bad", "two"] * 3
    task = fact_task(fitted("{subject} is {mask} .", causal=True), llama, words, max_tokens=40)
    evaluation = evaluate_examples(
        llama, PromptTensors(), task, None, task.examples(rows, answers), batch_size=4
    )
    spell = llama.tokenizer.convert_tokens_to_ids
    ids = [spell([*row["subject"].split(), "is"]) for row in rows]
    logits = [slow_ranks.next_token_logits(llama.model, one) for one in ids]
    allowed = None if words is None else set(spell(words))
    expected = slow_ranks.scores(logits, spell(answers), allowed)
    found = {name: evaluation.scores[name] for name in expected}
    assert found == pytest.approx(expected)
    losses = [
        -torch.tensor(row).log_softmax(0)[right].item()
        for row, right in zip(logits, spell(answers), strict=True)
    ]
    assert evaluation.scores["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize("source", ["{subject} is {mask} .", "{mask} is the {subject}"])
def test_a_masked_model_is_scored_at_its_mask(bert, words, source):
    rows = [{"subject": "the film"}, {"subject": "my late parcel"}, {"subject": "text"}] * 2
    answers = ["good", "bad", "two"] * 2
    task = fact_task(fitted(source, causal=False), bert, words, max_tokens=40)
    examples = task.examples(rows, answers)
    found = evaluate_examples(bert, PromptTensors(), task, None, examples, batch_size=4)
    spell = bert.tokenizer.convert_tokens_to_ids
    logits = []
    for row in rows:
        text = source.replace("{subject}", row["subject"]).replace("{mask}", "[MASK]")
        ids = spell(text.split())
        logits.append(slow_ranks.mask_logits(bert.model, ids, ids.index(spell("[MASK]"))))
    allowed = None if words is None else set(spell(words))
    expected = slow_ranks.scores(logits, spell(answers), allowed)
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected)
    best = max(range(96) if allowed is None else allowed, key=lambda token: logits[0][token])
    assert found.predictions[0].answer == bert.tokenizer.decode([best])


def test_objects_that_cannot_be_ranked_are_told_apart(llama):
    task = fact_task(fitted("{subject} is {mask}", causal=True), llama, WORDS, max_tokens=40)
    tokens, off_the_list = task.known(["good", "seven", "unheard", "good bad"])
    good = llama.tokenizer.convert_tokens_to_ids("good")
    assert tokens == [good, None, None, None]
    assert off_the_list == 1
    with pytest.raises(DataError, match=r"^row \d: the object 'seven' is not one token of"):
        task.examples([{"subject": "film"}], ["seven"])


def test_a_list_without_any_token_of_the_model_is_refused(llama):
    said = r'no word of the list is one token of "LlamaForCausalLM"\. Make a list for it: '
    with pytest.raises(ConfigError, match=said):
        fact_task(fitted("{subject} {mask}", causal=True), llama, ["unheard"], max_tokens=40)


def test_a_masked_model_without_a_mask_token_is_refused():
    with pytest.raises(TemplateError, match="this tokenizer has no mask token"):
        fact_task(fitted("{subject} {mask}", causal=False), tiny.backbone("bert"), None,
                  max_tokens=40)  # fmt: skip


def test_an_empty_subject_that_leaves_no_token_is_refused(llama):
    task = fact_task(fitted("{subject} {mask}", causal=True), llama, None, max_tokens=40)
    with pytest.raises(DataError, match=r"^row 1: .* since its subject is empty\. Give one"):
        task.examples([{"subject": ""}], ["good"])
