import copy
import json
import math

import numpy
import pytest
import tiny
import torch
from tiny_runs import (
    DEEP,
    HEAD,
    KINDS,
    ROWS,
    SHALLOW,
    TABLE,
    WITH_DROPOUT,
    Watcher,
    log_of,
    same,
    train,
)

from ptune.api import predict
from ptune.backbone import Backbone
from ptune.evaluation import Evaluation
from ptune.inject import Words, session
from ptune.prompt import SoftPrompt
from ptune.run import run
from ptune.tasks import Prediction
from ptune.training import learner
from ptune.training.learner import Learner

FREE = {"schedule": "constant", "warmup_share": 0.0}


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def numbers(prompt):
    deep = {f"{site}.{n}": t for site, kv in prompt.deep.items() for n, t in kv._asdict().items()}
    vectors = {} if prompt.vectors is None else {"vectors": prompt.vectors}
    return vectors | deep | dict(prompt.head)


def losses(result_or_watcher):
    return [loss for _, loss in result_or_watcher.steps]


def watched(backbone, settings, **more):
    watcher = Watcher()
    return train(backbone, settings, watcher=watcher, **more), losses(watcher)


def close(first, second, tolerance=1e-5):
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_with_one_seed_are_equal_and_another_seed_gives_another(backbone, kind):
    first, second = (train(backbone, KINDS[kind]) for _ in range(2))
    assert same(numbers(first.prompt), numbers(second.prompt))
    assert first.scores == second.scores
    other = train(backbone, KINDS[kind] | {"seed": 1})
    assert not same(numbers(first.prompt), numbers(other.prompt))


def states_of(read):
    return read.states if isinstance(read, Words) else read


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_that_comes_back_gives_bit_for_bit_what_was_trained(
    tmp_path, backbone, kind, monkeypatch
):
    learners = []
    made = Learner.__init__
    monkeypatch.setattr(
        Learner, "__init__", lambda self, *a, **k: (learners.append(self), made(self, *a, **k))[1]
    )
    result = train(backbone, KINDS[kind], output=tmp_path)
    task = learners[0].task
    examples = task.examples(ROWS)
    batch = backbone.pack([e.sequence for e in examples])
    learners[0].prompt.eval()
    with torch.no_grad():
        unfolded = run(backbone, [learners[0].prompt.tensors()], batch, read=task.read)
        for soft in (result.prompt, SoftPrompt.load(tmp_path / "prompt")):
            folded = run(backbone, [soft.tensors()], batch, read=task.read)
            assert torch.equal(states_of(folded), states_of(unfolded))
        expected = task.predict(unfolded, examples, learners[0].prompt.head)
    said = predict(backbone, SoftPrompt.load(tmp_path / "prompt"), ROWS, batch_size=len(ROWS))
    # `predict` puts rows of like length together: the same numbers in another order of sums.
    for one, other in zip(said, expected, strict=True):
        assert one.answer == other.answer
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_is_bit_for_bit_as_before_and_the_prompt_learns(backbone, kind):
    before = copy.deepcopy(backbone.model.state_dict())
    _, seen = watched(backbone, KINDS[kind] | {"epochs": 8}, validation_share=0)
    assert seen[-1] < seen[0]
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())


def test_the_users_random_state_is_left_alone(backbone):
    torch.manual_seed(11)
    numpy.random.seed(11)  # Python's own is not looked at: beartype draws from it in tests
    before = torch.get_rng_state(), numpy.random.get_state()[1].copy()
    train(backbone, SHALLOW | {"encoder_dropout": 0.3}, test=ROWS[:2])
    train(backbone, HEAD)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy.array_equal(numpy.random.get_state()[1], before[1])


def test_nothing_is_drawn_from_the_users_random_state(backbone):
    torch.manual_seed(1)
    first = train(backbone, WITH_DROPOUT["shallow"])
    torch.manual_seed(2)
    second = train(backbone, WITH_DROPOUT["shallow"])
    assert same(numbers(first.prompt), numbers(second.prompt))


def test_the_log_has_a_line_a_step_and_a_line_an_evaluation(tmp_path, backbone):
    result = train(backbone, TABLE, output=tmp_path)
    lines = log_of(tmp_path)
    steps = [line for line in lines if "loss" in line]
    assert [(line["step"], line["epoch"]) for line in steps] == [
        (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)
    ]  # fmt: skip
    assert all(set(line) == {"step", "epoch", "loss", "lr"} for line in steps)
    scored = [line for line in lines if "scores" in line]
    assert [line["step"] for line in scored] == [2, 4, 6]
    assert set(scored[0]["scores"]) == {"loss", "perplexity", "accuracy", "macro_f1"}
    assert result.scores["validation"] in [line["scores"] for line in scored]
    assert steps[0]["lr"] == pytest.approx(0.3)
    raw = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert raw["seconds"] >= 0


def test_the_facts_are_told_before_the_run(backbone):
    watcher = Watcher()
    rows = [*ROWS, *({"text": "late " * 100, "label": "complaint"} for _ in range(30))]
    result = train(backbone, TABLE | {"max_steps": 1}, rows, watcher=watcher)
    assert watcher.facts == result.facts
    assert result.facts["training rows"] == 32
    assert result.facts["validation rows"] == 8
    assert result.facts["labels"] == ["complaint", "no complaint"]
    assert result.facts["trained parameters"] == 2 * 32
    assert result.facts["rows cut"] == "23 of 32 training rows were too long and were cut."
    assert result.facts["imbalance"] == (
        "Unbalanced labels: 'complaint' has 28 of 32 rows, 'no complaint' has 4. Always answering "
        "'complaint' is right in 87.5 % of the rows: hold accuracy against that, and look at "
        "macro F1."
    )


def test_the_artifact_says_what_it_was_made_from(backbone):
    prompt = train(backbone, DEEP, test=ROWS[:4]).prompt
    assert prompt.task == "causal-lm"
    assert prompt.template == "{text} label : {label}"
    assert prompt.labels == ("complaint", "no complaint")
    assert prompt.fingerprint == backbone.fingerprint
    assert set(prompt.deep) == {0, 1, 2}
    assert prompt.trained_parameters == 3 * 3 * 2 * 2 * 8  # slots x sites x (k, v) x heads x width
    assert set(prompt.scores) == {"validation", "test"}
    assert prompt.settings["lr"] == 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_are_the_big_batch(backbone, kind):
    whole, seen = watched(backbone, KINDS[kind] | {"batch_size": 4, "validation_share": 0})
    parts, again = watched(
        backbone, KINDS[kind] | {"batch_size": 2, "accumulation": 2, "validation_share": 0}
    )
    assert again == pytest.approx(seen, rel=1e-4)
    close(numbers(parts.prompt), numbers(whole.prompt), 2e-3)


def without(settings, key):
    return {name: value for name, value in settings.items() if name != key}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_by_tokens_is_the_batch_of_its_rows(backbone, kind):
    settings = KINDS[kind] | {"validation_share": 0}
    whole, seen = watched(backbone, settings | {"batch_size": 10})
    tokens = without(settings, "batch_size") | {"tokens_per_batch": 10_000}
    parts, again = watched(backbone, tokens)
    assert again == pytest.approx(seen, rel=1e-4)
    close(numbers(parts.prompt), numbers(whole.prompt), 2e-3)


def test_the_loss_of_a_step_is_the_mean_over_its_rows_whatever_their_number(backbone):
    """Of two batches by tokens in one step, which differ in rows."""
    settings = without(TABLE, "batch_size") | {"validation_share": 0, "epochs": 1}
    _, one = watched(backbone, settings | {"tokens_per_batch": 10_000})
    _, several = watched(backbone, settings | {"tokens_per_batch": 16, "accumulation": 99})
    assert several == pytest.approx(one, rel=1e-4)


def test_by_tokens_the_prompt_is_scored_when_every_row_was_seen(backbone):
    watcher = Watcher()
    settings = without(TABLE, "batch_size") | {"tokens_per_batch": 16}
    result = train(backbone, settings, watcher=watcher)
    assert result.steps > 3 * 2
    assert len(watcher.scores) == 3
    assert watcher.scores[-1][0] == result.steps


def test_a_backbone_that_its_user_checkpoints_stays_so(backbone):
    backbone.gradient_checkpointing = True
    try:
        train(backbone, KINDS["deep"] | {"max_steps": 1})
        assert backbone.gradient_checkpointing
    finally:
        backbone.gradient_checkpointing = False


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_computes_the_same(backbone, kind, monkeypatch):
    whole, seen = watched(backbone, KINDS[kind])
    layers, checkpoint = [], session.checkpoint
    monkeypatch.setattr(
        session, "checkpoint", lambda *a, **k: (layers.append(1), checkpoint(*a, **k))[1]
    )
    again, also = watched(backbone, KINDS[kind] | {"gradient_checkpointing": True})
    assert len(layers) >= 6 * 3  # steps x layers
    assert also == pytest.approx(seen, rel=1e-5)
    close(numbers(again.prompt), numbers(whole.prompt), 1e-4)
    assert not backbone.gradient_checkpointing


def test_bf16_computes_nearly_the_same_and_trains_float32_numbers(backbone):
    _, seen = watched(backbone, TABLE)
    result, rough = watched(backbone, TABLE | {"precision": "bf16"})
    assert rough != seen
    assert rough == pytest.approx(seen, rel=0.1, abs=0.2)
    assert result.prompt.vectors.dtype == torch.float32
    _, exact = watched(backbone, TABLE)  # and nothing of it stays behind
    assert exact == seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_held_in_bfloat16_trains(kind):
    model = tiny.model("llama").bfloat16()
    backbone = Backbone.load(model, tokenizer=tiny.tokenizer())
    result, seen = watched(backbone, KINDS[kind])
    assert all(math.isfinite(loss) for loss in seen)
    assert all(t.dtype == torch.float32 for t in numbers(result.prompt).values())


def scripted(monkeypatch, accuracies):
    scores = iter(accuracies)

    def evaluation(self, measured, examples):
        accuracy = next(scores)
        said = [Prediction("complaint")] * len(examples)
        return Evaluation({"accuracy": accuracy, "loss": 1 - accuracy, "perplexity": 1.0}, said)

    monkeypatch.setattr(Learner, "evaluation", evaluation)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_prompt_of_the_run_comes_back(backbone, monkeypatch, metric):
    settings = TABLE | FREE | {"metric": metric}
    scripted(monkeypatch, [0.1, 0.2])
    until_best = train(backbone, settings, max_steps=4)
    scripted(monkeypatch, [0.5, 0.9, 0.8])
    result = train(backbone, settings)
    assert result.steps == 6
    assert result.scores["validation"]["accuracy"] == 0.9
    assert torch.equal(result.prompt.vectors, until_best.prompt.vectors)


def test_of_equal_scores_the_first_is_kept(backbone, monkeypatch):
    scripted(monkeypatch, [0.5, 0.5, 0.5])
    result = train(backbone, TABLE | FREE)
    monkeypatch.undo()
    scripted(monkeypatch, [0.5])
    first = train(backbone, TABLE | FREE, max_steps=2)
    assert torch.equal(result.prompt.vectors, first.prompt.vectors)


def test_of_equal_scores_the_last_is_kept_where_that_is_asked_and_patience_still_runs_out(
    backbone, monkeypatch
):
    settings = TABLE | FREE | {"keep": "equal", "patience": 2, "epochs": 7}
    scripted(monkeypatch, [0.5, 0.4, 0.5, 0.5, 0.5])
    # The second evaluation is worse, the third equal: two without gain end the run.
    result = train(backbone, settings)
    monkeypatch.undo()
    scripted(monkeypatch, [0.1, 0.2, 0.5])
    third = train(backbone, settings | {"patience": None}, max_steps=result.steps)
    assert result.scores["validation"]["accuracy"] == 0.5
    assert torch.equal(result.prompt.vectors, third.prompt.vectors)


def test_without_gain_a_run_stops_early(backbone, monkeypatch):
    scripted(monkeypatch, [0.5, 0.7, 0.6, 0.7, 0.9, 0.9, 0.9])
    result = train(backbone, TABLE | {"epochs": 7, "patience": 2})
    assert result.steps == 8
    assert result.scores["validation"]["accuracy"] == 0.7


def test_without_validation_rows_the_last_prompt_comes_back(backbone):
    result = train(backbone, TABLE | {"validation_share": 0})
    assert result.scores == {}
    assert result.steps == 9


def test_evaluations_and_checkpoints_come_when_they_are_asked_for(tmp_path, backbone, monkeypatch):
    saved = []
    save = learner.checkpoint.save
    monkeypatch.setattr(
        learner.checkpoint,
        "save",
        lambda f, progress, **k: (saved.append(progress.step), save(f, progress, **k)),
    )
    watcher = Watcher()
    train(backbone, TABLE, output=tmp_path, watcher=watcher, evaluate_every=4, save_every=3)
    assert [step for step, _ in watcher.scores] == [4, 6]
    assert saved == [0, 3, 6]
