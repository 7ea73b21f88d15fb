import copy
import json
import math
import os
import signal
import threading

import numpy
import pytest
import tiny
import torch
from tiny_runs import DEEP, HEAD, KINDS, ROWS, SHALLOW, TABLE, Watcher, log_of, same, train

import ptune
from ptune.api import predict
from ptune.backbone import Backbone
from ptune.errors import ConfigError, DataError, TemplateError, TrainingError
from ptune.evaluation import Evaluation
from ptune.prompt import SoftPrompt
from ptune.run import run
from ptune.tasks import Prediction
from ptune.training import job, loop
from ptune.training.loop import Loop

FREE = dict(schedule="constant", warmup_share=0.0)


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


# ------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_with_one_seed_are_equal_and_another_seed_gives_another(backbone, kind):
    first, second = (train(backbone, KINDS[kind]) for _ in range(2))
    assert same(numbers(first.prompt), numbers(second.prompt))
    assert first.scores == second.scores
    other = train(backbone, KINDS[kind] | dict(seed=1))
    assert not same(numbers(first.prompt), numbers(other.prompt))


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_that_comes_back_predicts_bit_for_bit_as_the_one_that_was_trained(
    tmp_path, backbone, kind, monkeypatch
):
    loops = []
    made = Loop.__init__
    monkeypatch.setattr(
        Loop, "__init__", lambda self, *a, **k: (loops.append(self), made(self, *a, **k))[1]
    )
    result = train(backbone, KINDS[kind], output=tmp_path)
    task = loops[0].task
    examples = task.examples(ROWS)
    batch = backbone.pack([e.sequence for e in examples])
    loops[0].prompt.eval()
    with torch.no_grad():
        unfolded = run(backbone, [loops[0].prompt.tensors()], batch, read=task.read)
        for soft in (result.prompt, SoftPrompt.load(tmp_path / "prompt")):
            assert torch.equal(run(backbone, [soft.tensors()], batch, read=task.read), unfolded)
        expected = task.predict(unfolded, examples, loops[0].prompt.head)
    said = predict(backbone, SoftPrompt.load(tmp_path / "prompt"), ROWS, batch_size=len(ROWS))
    assert said == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_is_bit_for_bit_as_before_and_the_prompt_learns(backbone, kind):
    before = copy.deepcopy(backbone.model.state_dict())
    _, seen = watched(backbone, KINDS[kind] | dict(epochs=8), validation_share=0)
    assert seen[-1] < seen[0]
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())


def test_the_users_random_state_is_left_alone(backbone):
    torch.manual_seed(11)
    numpy.random.seed(11)  # Python's own is not looked at: beartype draws from it in tests
    before = torch.get_rng_state(), numpy.random.get_state()[1].copy()
    train(backbone, SHALLOW | dict(encoder_dropout=0.3), test=ROWS[:2])
    train(backbone, HEAD)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy.array_equal(numpy.random.get_state()[1], before[1])


def test_nothing_is_drawn_from_the_users_random_state(backbone):
    torch.manual_seed(1)
    first = train(backbone, SHALLOW)
    torch.manual_seed(2)
    assert same(numbers(first.prompt), numbers(train(backbone, SHALLOW).prompt))


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
    result = train(backbone, TABLE | dict(max_steps=1), rows, watcher=watcher)
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


# ------------------------------------------------------------------------------- the same run


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_are_the_big_batch(backbone, kind):
    whole, seen = watched(backbone, KINDS[kind] | dict(batch_size=4, validation_share=0))
    parts, again = watched(
        backbone, KINDS[kind] | dict(batch_size=2, accumulation=2, validation_share=0)
    )
    assert again == pytest.approx(seen, rel=1e-4)
    close(numbers(parts.prompt), numbers(whole.prompt), 2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_computes_the_same(backbone, kind):
    whole, seen = watched(backbone, KINDS[kind])
    again, also = watched(backbone, KINDS[kind] | dict(gradient_checkpointing=True))
    assert also == pytest.approx(seen, rel=1e-5)
    close(numbers(again.prompt), numbers(whole.prompt), 1e-4)
    assert not backbone.gradient_checkpointing


def test_bf16_computes_nearly_the_same_and_trains_float32_numbers(backbone):
    _, seen = watched(backbone, TABLE)
    result, rough = watched(backbone, TABLE | dict(precision="bf16"))
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


# ------------------------------------------------------------------------------- evaluations


def scripted(monkeypatch, accuracies):
    scores = iter(accuracies)

    def evaluate(self, examples):
        accuracy = next(scores)
        said = [Prediction("complaint")] * len(examples)
        return Evaluation({"accuracy": accuracy, "loss": 1 - accuracy, "perplexity": 1.0}, said)

    monkeypatch.setattr(Loop, "evaluate", evaluate)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_prompt_of_the_run_comes_back(backbone, monkeypatch, metric):
    settings = TABLE | FREE | dict(metric=metric)
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


def test_without_gain_a_run_stops_early(backbone, monkeypatch):
    scripted(monkeypatch, [0.5, 0.7, 0.6, 0.7, 0.9, 0.9, 0.9])
    result = train(backbone, TABLE | dict(epochs=7, patience=2))
    assert result.steps == 8
    assert result.scores["validation"]["accuracy"] == 0.7


def test_without_validation_rows_the_last_prompt_comes_back(backbone):
    result = train(backbone, TABLE | dict(validation_share=0))
    assert result.scores == {}
    assert result.steps == 9


def test_evaluations_and_checkpoints_come_when_they_are_asked_for(
    tmp_path, backbone, monkeypatch
):
    saved = []
    save = loop.checkpoint.save
    monkeypatch.setattr(
        loop.checkpoint, "save", lambda f, progress, **k: (saved.append(progress.step), save(f, progress, **k))
    )
    watcher = Watcher()
    train(
        backbone, TABLE, output=tmp_path, watcher=watcher, evaluate_every=4, save_every=3
    )
    assert [step for step, _ in watcher.scores] == [4, 6]
    assert saved == [0, 3, 6]


# ------------------------------------------------------------------------------- when it breaks


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def broken_at(monkeypatch, step, value):
    """The loss of one step is spoilt."""
    forward, calls = loop.Step.forward, []

    def spoilt(self, examples):
        calls.append(1)
        found = forward(self, examples)
        return value(self, found) if len(calls) == step else found

    monkeypatch.setattr(loop.Step, "forward", spoilt)


def diverged(found, output):
    return (
        f"Training diverged: the loss or its gradient is no longer a number ({found}) at step 4 of "
        f"6. The last good state is in {output}/checkpoint. Try a smaller lr (now 0.3), a longer "
        "warmup_share, or precision=fp32."
    )


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_stops_the_run_and_the_last_good_state_goes_on(
    tmp_path, backbone, monkeypatch, what
):
    watcher = Watcher()
    whole = train(backbone, TABLE, output=tmp_path / "whole", watcher=watcher)
    spoil = {
        "loss": lambda step, losses: losses * float("nan"),
        # finite itself, but its derivative at 0 is not
        "gradient": lambda step, losses: losses + (step.prompt.shallow.weight.sum() * 0).sqrt(),
    }
    with monkeypatch.context() as patch:
        broken_at(patch, 4, spoil[what])
        with pytest.raises(TrainingError) as error:
            train(backbone, TABLE, output=tmp_path / "a")
    seen = {"loss": "nan", "gradient": f"{losses(watcher)[3]:g}"}[what]
    assert str(error.value) == diverged(f"loss {seen}", tmp_path / "a")
    again = train(backbone, TABLE, output=tmp_path / "a", resume=True)
    assert torch.equal(again.prompt.vectors, whole.prompt.vectors)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "whole")


def test_a_validation_loss_that_is_none_stops_the_run_before_its_checkpoint(
    tmp_path, backbone, monkeypatch
):
    measure, calls = loop.measure_examples, []

    def spoilt(*args, **settings):
        calls.append(1)
        found = measure(*args, **settings)
        return [type(m)(math.inf, m.prediction) for m in found] if len(calls) == 2 else found

    monkeypatch.setattr(loop, "measure_examples", spoilt)
    refused(
        TrainingError,
        diverged("loss inf", tmp_path),
        lambda: train(backbone, TABLE, output=tmp_path),
    )
    monkeypatch.undo()
    assert train(backbone, TABLE, output=tmp_path, resume=True).steps == 6


def test_a_prompt_with_a_number_that_is_none_never_becomes_a_checkpoint(
    tmp_path, backbone, monkeypatch
):
    def spoil(step):
        if step == 4:
            with torch.no_grad():
                loops[0].prompt.shallow.weight[0, 0] = math.nan

    loops = []
    advance = Loop._advance
    monkeypatch.setattr(Loop, "_advance", lambda self: (loops.append(self), advance(self))[1])
    settings = TABLE | dict(validation_share=0.2, evaluate_every=6, save_every=1)
    refused(
        TrainingError,
        diverged("in the prompt itself", tmp_path),
        lambda: train(backbone, settings, output=tmp_path, watcher=Watcher(at_step=spoil)),
    )


def interrupt_at(step):
    def at_step(now):
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)

    return Watcher(at_step=at_step)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, backbone):
    whole = train(backbone, TABLE, output=tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    message = (
        f"Stopped at step 4 of 6. The state is in {tmp_path}/a/checkpoint; run the same command "
        "with --resume to go on (in Python: resume=True)."
    )
    # The signal arrives when step 3 is done: step 4 is the one that is finished.
    refused(
        TrainingError,
        message,
        lambda: train(backbone, TABLE, output=tmp_path / "a", watcher=interrupt_at(3)),
    )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    again = train(backbone, TABLE, output=tmp_path / "a", resume=True)
    assert torch.equal(again.prompt.vectors, whole.prompt.vectors)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "whole")


def test_ctrl_c_without_an_output_folder_keeps_nothing_and_says_so(backbone):
    message = "Stopped at step 3 of 6. Nothing was kept: the run has no output folder."
    refused(
        TrainingError, message, lambda: train(backbone, TABLE, watcher=interrupt_at(2))
    )


def test_ctrl_c_in_the_last_step_lets_the_run_finish(tmp_path, backbone):
    assert train(backbone, TABLE, output=tmp_path, watcher=interrupt_at(5)).steps == 6
    assert (tmp_path / "prompt" / "prompt.json").exists()


def test_ctrl_c_twice_stops_at_once(backbone):
    def twice(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(backbone, TABLE, watcher=Watcher(at_step=twice))


def test_in_a_thread_signals_are_left_to_the_program(backbone):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(backbone, TABLE)))
    thread.start()
    thread.join()
    assert results[0].steps == 6


def test_after_an_error_the_backbone_is_as_before(backbone, monkeypatch):
    broken_at(monkeypatch, 2, lambda step, losses: losses * math.nan)
    with pytest.raises(TrainingError):
        train(backbone, TABLE | dict(gradient_checkpointing=True))
    assert not backbone.gradient_checkpointing
    for module in backbone.model.modules():
        assert "_ptune" not in module.__dict__
        assert "forward" not in module.__dict__
        assert not module._forward_hooks


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path, backbone):
    (tmp_path / "file").write_text("no folder")
    output, watcher = tmp_path / "file" / "run", Watcher()
    message = (
        f"{output}/log.jsonl: cannot be written (Not a directory). Choose another output folder."
    )
    refused(
        ConfigError, message, lambda: train(backbone, TABLE, output=output, watcher=watcher)
    )
    assert watcher.steps == []


# ------------------------------------------------------------------------------- settings and rows


def test_rows_of_the_test_file_are_looked_at_before_the_first_step(backbone):
    watcher = Watcher()
    test = [{"text": "late", "label": "compliment"}]
    message = (
        "the given rows, row 1: label 'compliment' never occurs in the given rows. Known: "
        "complaint, no complaint. Did you mean complaint? Mend the row, or add the label."
    )
    refused(DataError, message, lambda: train(backbone, TABLE, test=test, watcher=watcher))
    test = [{"text": None, "label": "complaint"}]
    with pytest.raises(DataError, match="the value is missing"):
        train(backbone, TABLE, test=test, watcher=watcher)
    assert watcher.steps == []


def test_a_column_that_is_missing_in_one_of_the_files_is_named_with_the_file(tmp_path, backbone):
    file = tmp_path / "test.csv"
    file.write_text("txt,label\nlate,complaint\n")
    with pytest.raises(TemplateError) as error:
        train(backbone, TABLE, test=str(file))
    assert str(error.value) == (
        f'{file}: template "{{soft:2}}{{text}} label : {{label}}", column 9: unknown slot {{text}}. '
        "Known: {soft:N}, {mask}, {label}, {sep} or a field of the rows: txt, label. "
        "Did you mean txt?"
    )


def test_without_a_template_the_one_text_column_is_taken(backbone):
    settings = dict(epochs=1, batch_size=8, prompt_length=3)
    assert train(backbone, settings).prompt.template == "{soft:3}{text} Label : {label}"
    deep = settings | dict(method="p-tuning-v2")
    assert train(backbone, deep).prompt.template == "{text} Label : {label}"
    head = settings | dict(task="sequence-classification")
    assert train(backbone, head).prompt.template == "{soft:3}{text}"


def test_without_a_template_several_or_no_columns_are_refused(backbone):
    rows = [row | {"more": "text"} for row in ROWS]
    message = (
        "template is missing, and the given rows has several columns to choose from: text, more. "
        'Say how a row looks, e.g. template="{soft:20}{text}".'
    )
    refused(ConfigError, message, lambda: train(backbone, {}, rows))
    rows = [{"label": row["label"]} for row in ROWS]
    message = (
        "template is missing, and the given rows has no column beside label. "
        "Add a column with the texts."
    )
    refused(ConfigError, message, lambda: train(backbone, {}, rows))


def test_a_method_that_has_nothing_to_train_is_refused(backbone):
    message = (
        'template "{text} label : {label}" has no virtual tokens, which method p-tuning trains. '
        "Put {soft:20} where they should stand, or use method: p-tuning-v2."
    )
    refused(
        ConfigError,
        message,
        lambda: train(backbone, SHALLOW, template="{text} label : {label}"),
    )


def test_a_layer_that_is_not_there_is_refused(backbone):
    message = (
        "layers = [5]: the backbone has 3 attention sites, numbered 0 .. 2. Choose among them."
    )
    refused(ConfigError, message, lambda: train(backbone, DEEP, layers=[5]))


@pytest.mark.parametrize(("layers", "sites"), [("upper:2", {1, 2}), ([0, 2], {0, 2})])
def test_chosen_layers_alone_are_trained(backbone, layers, sites):
    assert set(train(backbone, DEEP, layers=layers).prompt.deep) == sites


def test_several_answer_words_are_trained_and_kept(backbone):
    words = {"complaint": ["bad", "late"], "no complaint": ["good"]}
    prompt = train(backbone, TABLE, verbalizer=words).prompt
    assert prompt.verbalizer == words
    said = predict(backbone, prompt, ["thank you"])[0]
    assert set(said.probabilities) == {"complaint", "no complaint"}


def test_the_start_from_labels_is_the_words_that_stand_for_them(backbone):
    settings = TABLE | dict(init="labels", verbalizer={"complaint": ["bad"]}, lr=1e-8, max_steps=1)
    vectors = train(backbone, settings).prompt.vectors
    ids = backbone.tokenizer("bad no", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(vectors, backbone.embed(ids), rtol=1e-5, atol=1e-5)


def test_another_prompt_is_gone_on_from(tmp_path, backbone):
    first = train(backbone, TABLE, output=tmp_path)
    settings = TABLE | dict(init=str(tmp_path / "prompt"), lr=1e-8, max_steps=1)
    second = train(backbone, settings)
    torch.testing.assert_close(second.prompt.vectors, first.prompt.vectors, rtol=1e-5, atol=1e-5)


def test_a_text_in_the_template_is_what_its_block_starts_from(backbone):
    template = '{soft:"thank you"}{text} label : {label}'
    settings = TABLE | dict(template=template, init="random", lr=1e-8, max_steps=1)
    ids = backbone.tokenizer("thank you", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(
        train(backbone, settings).prompt.vectors, backbone.embed(ids), rtol=1e-5, atol=1e-5
    )


def test_rows_are_cut_so_that_keys_at_absolute_positions_have_theirs():
    backbone = tiny.backbone("gpt2")  # of 64 positions
    rows = [row | {"text": row["text"] + " late" * 100} for row in ROWS]
    prompt = train(backbone, DEEP, rows).prompt
    assert prompt.offset == 3
    said = predict(backbone, prompt, ["late " * 100])
    assert said[0].answer in ("complaint", "no complaint")


def test_free_text_is_trained_and_generated(backbone):
    rows = [{"text": t, "reply": f"thank you {w}"} for t, w in zip("abcdefgh", "abcdefgh", strict=True)]
    settings = TABLE | dict(answer="text", label_column="reply")
    result = train(backbone, settings, rows, test=rows[:2])
    assert set(result.scores["test"]) == {"loss", "perplexity", "exact_match"}
    assert result.prompt.labels == ()
    assert "imbalance" not in result.facts
    assert isinstance(predict(backbone, result.prompt, ["late"])[0].answer, str)


def test_several_labels_and_numbers_are_trained(backbone):
    several = [row | {"label": "a|b" if at % 2 else ""} for at, row in enumerate(ROWS)]
    result = train(backbone, HEAD | dict(problem="multi-label"), several)
    assert set(result.scores["validation"]) == {"loss", "perplexity", "micro_f1", "macro_f1"}
    numbers = [row | {"label": str(at)} for at, row in enumerate(ROWS)]
    result = train(backbone, HEAD | dict(problem="regression"), numbers)
    assert {"mse", "pearson", "spearman"} < set(result.scores["validation"])
    assert isinstance(predict(backbone, result.prompt, ["late"])[0].answer, float)


def test_unknown_settings_are_refused(backbone):
    with pytest.raises(ConfigError) as error:
        ptune.train(backbone, ROWS, epoch=3)
    assert "epoch" in str(error.value)
    assert "Did you mean epochs?" in str(error.value)


def test_mistakes_in_the_rows_are_told_before_the_backbone_is_loaded(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("text,label\nlate,complaint\n")
    with pytest.raises(DataError):
        ptune.train("nowhere/at-all", str(file), validation_share=0)


def test_each_of_several_launched_processes_takes_a_gpu_of_its_own(monkeypatch):
    asked, loaded = {}, tiny.backbone()
    monkeypatch.setattr(job.Backbone, "load", lambda *a, **k: asked.update(k) or loaded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    recipe = ptune.Recipe.make(backbone="b", train="t.csv")
    job.load_backbone(recipe)
    assert asked["device"] == "cuda:3"
    job.load_backbone(recipe.changed(device="cpu"))
    assert asked["device"] == "cpu"


def test_the_run_is_told_to_tensorboard_too(tmp_path, backbone):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = TABLE | dict(tracker="tensorboard")
    train(backbone, settings, output=tmp_path)
    log = events.EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    assert [e.step for e in log.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in log.Scalars("validation/accuracy")] == [2, 4, 6]
