"""All relations: what is measured, what is kept, and what one relation cannot spoil."""

import json

import pytest
import tiny
import torch
from oracles import slow_ranks
from probing.facts_of import NUMBERS, RELATIONS, TEMPLATES, facts, write_folder, write_lines

import ptune
from ptune.config import Recipe
from ptune.config.wording import show
from ptune.errors import BackboneError, ConfigError, TrainingError
from ptune.probing import Plan, Wish, find_facts, means_of, probe
from ptune.prompt import SoftPrompt

WORDS = [*NUMBERS, "yes", "no", "good", "bad"]
QUICK = {"epochs": 2, "batch_size": 8, "seed": 0}


@pytest.fixture(scope="module")
def llama():
    return tiny.backbone("llama")


@pytest.fixture(scope="module")
def bert():
    backbone = tiny.backbone("bert")
    backbone.tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return backbone


def plan_of(folder, output, methods=("manual", "p-tuning"), wish=None, settings=None, **more):
    recipe = Recipe.make(backbone="tiny", **(QUICK | (settings or {})))
    return Plan(find_facts(folder), recipe, methods, output, wish=wish or Wish(), **more)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "facts")


def ids_of(backbone, text):
    return backbone.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_every_relation_is_measured_as_the_oracle_measures_it(llama, folder, tmp_path):
    plan = plan_of(folder, tmp_path / "run", ("manual", "p-tuning", "p-tuning-v2"), words=WORDS)
    found = probe(llama, plan)
    assert list(found) == ["manual", "p-tuning", "p-tuning-v2"]
    allowed = {ids_of(llama, word)[0] for word in WORDS}
    for name, template in TEMPLATES.items():
        rows = plan.facts.read(name, plan.shares).test
        rights = [ids_of(llama, row["object"])[0] for row in rows]
        shown = template.split("[Y]")[0]
        logits = [
            slow_ranks.next_token_logits(
                llama.model, ids_of(llama, shown.replace("[X]", row["subject"]))
            )
            for row in rows
        ]
        expected = slow_ranks.scores(logits, rights, allowed)
        scores = found["manual"][name]["scores"]
        assert {key: scores[key] for key in expected} == pytest.approx(expected)
        # The prompt that was saved, put before and behind the subject by hand.
        vectors = SoftPrompt.load(tmp_path / "run" / "p-tuning" / name / "prompt").vectors
        with_prompt = [[-1, -2, -3, *ids_of(llama, row["subject"]), -4, -5, -6] for row in rows]
        logits = [slow_ranks.next_token_logits(llama.model, ids, vectors) for ids in with_prompt]
        expected = slow_ranks.scores(logits, rights, allowed)
        scores = found["p-tuning"][name]["scores"]
        assert {key: scores[key] for key in expected} == pytest.approx(expected)
    entry = found["p-tuning"]["P2"]
    # 20 facts: 4 to test, 3 of the rest to choose by.
    counts = {"train": 13, "validation": 3, "test": 4, "dropped_tokens": 0, "dropped_list": 0}
    counts |= {"cut": 0, "repeated": 0}
    assert entry["counts"] == counts
    assert entry["template"] == "{soft:3} {subject}{soft:3} {label}"
    assert found["p-tuning-v2"]["P2"]["template"] == "{subject} {label}"


def test_a_masked_model_is_probed_in_both_orders(bert, folder, tmp_path):
    for order in ("subject-first", "mask-first"):
        output = tmp_path / order
        plan = plan_of(folder, output, wish=Wish(None, order), relations=["P3"])
        found = probe(bert, plan)
        rows = plan.facts.read("P3", plan.shares).test
        rights = [ids_of(bert, row["object"])[0] for row in rows]
        mask = bert.tokenizer.mask_token_id
        texts = [f"is {row['subject']} late ? [MASK]" for row in rows]
        ids = [bert.tokenizer.convert_tokens_to_ids(text.split()) for text in texts]
        logits = [slow_ranks.mask_logits(bert.model, one, one.index(mask)) for one in ids]
        expected = slow_ranks.scores(logits, rights)
        scores = found["manual"]["P3"]["scores"]
        assert {key: scores[key] for key in expected} == pytest.approx(expected)
        trained = found["p-tuning"]["P3"]
        first, second = ("{subject}", "{mask}")[:: 1 if order == "subject-first" else -1]
        assert trained["template"] == f"{{soft:3}} {first}{{soft:3}} {second}{{soft:3}}"
        assert trained["steps"] == 4


def test_the_prompt_of_a_relation_is_one_for_the_backbones_own_task(llama, folder, tmp_path):
    plan = plan_of(folder, tmp_path / "run", ("prompt-tuning",), relations=["P3"])
    probe(llama, plan)
    soft = SoftPrompt.load(tmp_path / "run" / "prompt-tuning" / "P3" / "prompt")
    assert (soft.task, soft.labels) == ("causal-lm", ("no", "yes"))
    (said,) = ptune.predict(llama, soft, [{"sub_label": "my film"}])
    ids = [-1, -2, -3, *ids_of(llama, "my film"), -4, -5, -6]
    logits = torch.tensor(slow_ranks.next_token_logits(llama.model, ids, soft.vectors))
    both = logits[[*ids_of(llama, "no"), *ids_of(llama, "yes")]].softmax(0)
    shares = [said.probabilities["no"], said.probabilities["yes"]]
    assert shares == pytest.approx(both.tolist(), abs=1e-5)
    test = plan.facts.read("P3", plan.shares).test
    assert 0 <= ptune.evaluate(llama, soft, test).scores["accuracy"] <= 1


@pytest.mark.parametrize("order", ["subject-first", "mask-first"])
def test_the_prompt_of_a_masked_model_is_one_that_fills_the_mask(bert, folder, tmp_path, order):
    plan = plan_of(
        folder, tmp_path / "run", ("prompt-tuning",), wish=Wish(None, order), relations=["P3"]
    )
    probe(bert, plan)
    soft = SoftPrompt.load(tmp_path / "run" / "prompt-tuning" / "P3" / "prompt")
    assert (soft.task, soft.labels) == ("masked-lm", ("no", "yes"))
    (said,) = ptune.predict(bert, soft, [{"sub_label": "my film"}])
    subject, mask = ids_of(bert, "my film"), [bert.tokenizer.mask_token_id]
    first, second = (subject, mask) if order == "subject-first" else (mask, subject)
    ids = [-1, -2, -3, *first, -4, -5, -6, *second, -7, -8, -9]
    logits = slow_ranks.mask_logits(bert.model, ids, ids.index(mask[0]), soft.vectors)
    both = torch.tensor(logits)[[*ids_of(bert, "no"), *ids_of(bert, "yes")]].softmax(0)
    shares = [said.probabilities["no"], said.probabilities["yes"]]
    assert shares == pytest.approx(both.tolist(), abs=1e-5)
    test = plan.facts.read("P3", plan.shares).test
    assert 0 <= ptune.evaluate(bert, soft, test).scores["accuracy"] <= 1


def test_training_teaches_the_object_and_leaves_the_backbone_alone(llama, folder, tmp_path):
    before = {name: value.clone() for name, value in llama.model.state_dict().items()}
    plan = plan_of(folder, tmp_path / "run", ("manual", "prompt-tuning"), words=WORDS,
                   relations=["P1"], settings={"epochs": 15, "batch_size": 4})  # fmt: skip
    found = probe(llama, plan)
    assert found["manual"]["P1"]["scores"]["p_at_1"] < 0.5
    assert found["prompt-tuning"]["P1"]["scores"]["p_at_1"] == 1.0
    assert found["prompt-tuning"]["P1"]["majority"] == 1.0
    assert found["prompt-tuning"]["P1"]["scores"]["loss"] < found["manual"]["P1"]["scores"]["loss"]
    after = llama.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "settings",
    [
        {"train_backbone": True},
        {"bad_rows": "skip"},
        {"reader": "superglue/copa"},
        {"calibration": "batch"},
        {"found_words": 2},
        {"second_metric": "loss"},
    ],
)
def test_a_plan_takes_no_setting_that_would_harm_other_relations_or_be_ignored(
    folder, tmp_path, settings
):
    ((key, value),) = settings.items()
    with pytest.raises(ConfigError, match=rf"{key}={show(value)}: ptune probe .* Leave it out"):
        plan_of(folder, tmp_path / "run", settings=settings)


class Killed(BaseException):
    """As if the process were gone."""


def killing_after(count):
    heard = []

    def tell(line):
        heard.append(line)
        if len(heard) == count:
            raise Killed

    return tell, heard


def without_time(found):
    return json.loads(json.dumps(found))


def test_a_killed_run_goes_on_and_gives_what_an_unbroken_one_gives(llama, folder, tmp_path):
    whole = probe(llama, plan_of(folder, tmp_path / "whole"))
    plan = plan_of(folder, tmp_path / "killed")
    tell, first = killing_after(3)
    with pytest.raises(Killed):
        probe(llama, plan, tell)
    assert [line.split(":")[0] for line in first] == [
        "1 of 3  P1, manual",
        "1 of 3  P1, p-tuning",
        "2 of 3  P2, manual",
    ]
    rest = []
    found = probe(llama, plan, rest.append)
    assert [line.split(":")[0] for line in rest] == [
        "2 of 3  P2, p-tuning",
        "3 of 3  P3, manual",
        "3 of 3  P3, p-tuning",
    ]
    assert without_time(found) == without_time(whole)
    nothing = []
    assert without_time(probe(llama, plan, nothing.append)) == without_time(whole)
    assert nothing == []
    assert [path.name for path in (tmp_path / "killed").glob(".*")] == []


def test_facts_that_changed_are_probed_again_and_others_are_not(llama, folder, tmp_path):
    plan = plan_of(folder, tmp_path / "run", ("manual",))
    probe(llama, plan)
    write_folder(folder, RELATIONS | {"P2": facts(["six"])}, TEMPLATES | {"P3": "[X] : [Y]"})
    heard = []
    probe(llama, plan_of(folder, tmp_path / "run", ("manual",)), heard.append)
    assert [line.split(":")[0] for line in heard] == ["2 of 3  P2, manual", "3 of 3  P3, manual"]


def test_results_of_other_settings_are_not_mixed(llama, folder, tmp_path):
    output = tmp_path / "run"
    probe(llama, plan_of(folder, output, ("p-tuning",), relations=["P1"]))
    probe(llama, plan_of(folder, output, ("manual",), relations=["P1"]))  # a method more
    with pytest.raises(ConfigError) as error:
        probe(llama, plan_of(folder, output, ("p-tuning",), settings={"epochs": 3}))
    assert str(error.value) == (
        f"{output / 'probe.json'}: its results of method p-tuning were made with other settings "
        "(epochs: 2, not 3). Name another folder with --output."
    )
    (output / "probe.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"probe\.json: is no record of ptune probe"):
        probe(llama, plan_of(folder, output))


def test_one_relations_failure_is_told_and_does_not_lose_the_others(llama, tmp_path):
    folder = tmp_path / "facts"
    relations = {"P0": facts(["unheard of", "unknown"])} | RELATIONS
    write_folder(
        folder, relations, TEMPLATES | {"P0": "[X] [Y]", "P3": "[Y] saw the [X] .", "P4": "[X] [Y]"}
    )
    (folder / "P4.jsonl").write_text("{broken\n", encoding="utf-8")
    heard = []
    words = [word for word in WORDS if word != "good"]
    plan = plan_of(folder, tmp_path / "run", words=words)
    found = probe(llama, plan, heard.append)
    errors = {name: entry.get("error") for name, entry in found["manual"].items()}
    assert errors["P0"] == (
        "P0: no fact is left to test: of all its objects, 20 are not one token of the backbone and "
        "0 are not on the list of words. Add facts, or take another list with --vocabulary."
    )
    assert errors["P1"].startswith(
        "P1: no fact is left to test: of all its objects, 0 are not one token of the backbone and "
        "20 are not on the list of words."
    )
    assert errors["P2"] is None
    assert errors["P3"].startswith('P3: template "{mask} saw the {subject} ."')
    assert "P4.jsonl, line 1, column 2: not JSON" in errors["P4"]
    assert means_of(found["manual"])["mrr"] == found["manual"]["P2"]["scores"]["mrr"]
    assert "scores" in found["p-tuning"]["P3"]
    # What failed is tried again, and done when it can be.
    write_lines(folder / "P4.jsonl", facts(["one", "two"]))
    heard.clear()
    again = probe(llama, plan_of(folder, tmp_path / "run", words=words), heard.append)
    assert "scores" not in again["manual"]["P0"]
    assert "scores" in again["manual"]["P4"]
    assert not any("P2" in line for line in heard)


def test_without_dev_facts_the_last_step_is_kept(llama, folder, tmp_path):
    settings = {"validation_share": 0}
    plan = plan_of(folder, tmp_path / "run", ("prompt-tuning",), relations=["P2"],
                   settings=settings)  # fmt: skip
    found = probe(llama, plan)["prompt-tuning"]["P2"]
    assert found["counts"]["validation"] == 0
    assert (found["steps"], found["best_step"], found["validation"]) == (4, 0, {})
    assert 0 < found["scores"]["mrr"] <= 1


def test_a_deep_prompt_changes_what_a_masked_model_says(bert, folder, tmp_path):
    plan = plan_of(folder, tmp_path / "run", ("manual", "p-tuning-v2"), Wish("manual"),
                   relations=["P3"])  # fmt: skip
    found = probe(bert, plan)
    assert found["manual"]["P3"]["template"] == found["p-tuning-v2"]["P3"]["template"]
    losses = [found[method]["P3"]["scores"]["loss"] for method in ("manual", "p-tuning-v2")]
    assert losses[1] < losses[0]


def test_no_more_rows_are_trained_on_than_is_asked_for(llama, folder, tmp_path):
    plan = plan_of(folder, tmp_path / "run", relations=["P2"], settings={"max_rows": 5})
    assert probe(llama, plan)["p-tuning"]["P2"]["counts"]["train"] == 5


def test_a_run_that_the_user_stops_says_how_to_go_on(llama, folder, tmp_path, monkeypatch):
    from ptune.probing import prompts

    class StoppedLoop:
        def __init__(self, *args, **kwargs):
            pass

        def run(self):
            raise TrainingError("stopped")

    monkeypatch.setattr(prompts, "Loop", StoppedLoop)
    with pytest.raises(TrainingError) as error:
        probe(llama, plan_of(folder, tmp_path / "run"))
    assert str(error.value) == (
        f"Stopped in relation P1. What was done before is in {tmp_path / 'run'}; the same command "
        "goes on from there."
    )


def test_a_relation_that_diverges_is_its_own_failure(llama, folder, tmp_path):
    from ptune.probing import prompts

    plan = plan_of(folder, tmp_path / "run", ("prompt-tuning",), relations=["P1"])

    def broken(self, read, examples, head):
        return torch.full((len(examples),), torch.nan, requires_grad=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts.FactTask, "loss", broken)
        found = probe(llama, plan)
    assert found["prompt-tuning"]["P1"]["error"].startswith("P1: Training diverged")


def test_a_model_that_says_no_words_is_refused(folder, tmp_path):
    import transformers as hf

    from ptune.backbone import Backbone

    body = hf.AutoModel.from_config(tiny.ENCODERS["bert"]())
    backbone = Backbone.load(body, tokenizer=tiny.tokenizer())
    with pytest.raises(BackboneError, match="has no language-model head, so it can say no object"):
        probe(backbone, plan_of(folder, tmp_path / "run"))
