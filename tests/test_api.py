import logging

import pandas
import pytest
import tiny
import torch
from tiny_runs import DEEP, HEAD, KINDS, LABELS, ROWS, TABLE, TEXTS, train

import ptune
from ptune import api
from ptune.api import predict_kept
from ptune.errors import ArtifactError, DataError


@pytest.fixture(scope="module")
def backbone():
    return ptune.Backbone.load(tiny.model("llama"), tokenizer=tiny.tokenizer())


@pytest.fixture(scope="module")
def prompts(backbone):
    return {kind: train(backbone, settings, test=ROWS).prompt for kind, settings in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_prompt_predicts_and_scores_as_when_it_was_trained(
    tmp_path, backbone, prompts, kind
):
    prompts[kind].save(tmp_path / "prompt")
    loaded = ptune.SoftPrompt.load(tmp_path / "prompt")
    evaluation = backbone.evaluate(ROWS, loaded)
    assert evaluation.scores == pytest.approx(prompts[kind].scores["test"], rel=1e-5)
    assert backbone.predict(ROWS, loaded) == evaluation.predictions
    assert backbone.predict(list(TEXTS), loaded) == evaluation.predictions


def test_texts_rows_and_files_are_predicted_alike(tmp_path, backbone, prompts):
    file = tmp_path / "rows.csv"
    file.write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS))
    from_file = ptune.predict(backbone, prompts["table"], str(file))
    assert from_file == ptune.predict(backbone, prompts["table"], list(TEXTS))
    assert from_file == ptune.predict(backbone, prompts["table"], [{"text": t} for t in TEXTS])


def test_columns_that_were_mapped_in_training_are_mapped_in_use(backbone):
    rows = [{"message": text, "kind": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    settings = TABLE | {"columns": {"text": "message"}, "label_column": "kind"}
    mapped = train(backbone, settings, rows).prompt
    plain = train(backbone, TABLE).prompt
    assert torch.equal(mapped.vectors, plain.vectors)
    assert backbone.predict(rows, mapped) == backbone.predict(ROWS, plain)
    assert backbone.predict(list(TEXTS), mapped) == backbone.predict(ROWS, plain)
    assert backbone.evaluate(rows, mapped).scores == backbone.evaluate(ROWS, plain).scores


def test_names_load_on_first_use_and_are_all_there():
    for name in ptune.__all__:
        assert getattr(ptune, name) is not None
    assert dir(ptune) == sorted(ptune.__all__)
    with pytest.raises(AttributeError, match="module 'ptune' has no attribute 'tune'"):
        _ = ptune.tune


@pytest.mark.parametrize("kind", ["table", "head"])
def test_rows_that_were_cut_are_told_once(backbone, prompts, kind, caplog):
    long = ["late " * 10_000, "thank you", "bad " * 10_000]
    with caplog.at_level(logging.WARNING, logger="ptune"):
        said = backbone.predict(long, prompts[kind])
    assert len(said) == 3
    assert [record.message for record in caplog.records] == [
        "2 of 3 rows were too long and were cut."
    ]
    caplog.clear()
    backbone.predict(["thank you"], prompts[kind])
    assert caplog.records == []


def test_another_backbone_is_refused_and_forced(prompts):
    other = ptune.Backbone.load(tiny.model("llama", seed=1), tokenizer=tiny.tokenizer())
    with pytest.raises(ArtifactError) as error:
        other.predict(["late"], prompts["deep"])
    assert "another weights" in str(error.value)
    assert len(other.predict(["late"], prompts["deep"], force=True)) == 1
    assert "accuracy" in other.evaluate(ROWS, prompts["deep"], force=True).scores


def test_a_copy_in_bfloat16_is_the_same_backbone(prompts):
    model = tiny.model("llama").bfloat16()
    half = ptune.Backbone.load(model, tokenizer=tiny.tokenizer())
    for kind in KINDS:
        assert half.predict(["thank you"], prompts[kind])[0].answer in LABELS


def refused(message, call):
    with pytest.raises(DataError) as error:
        call()
    assert str(error.value) == message


def test_a_label_that_the_prompt_does_not_know_is_refused_with_its_place(backbone, prompts):
    rows = [*ROWS[:2], {"text": "late", "label": "praise"}]
    message = (
        "the given rows, row 3: label 'praise' is unknown to the prompt. Its labels: 'complaint', "
        "'no complaint'. Mend the row, or train a prompt with this label."
    )
    refused(message, lambda: backbone.evaluate(rows, prompts["table"]))


def test_texts_for_a_template_of_two_fields_are_refused(backbone):
    rows = [{"a": row["text"], "b": row["text"], "label": row["label"]} for row in ROWS]
    prompt = train(backbone, TABLE | {"template": "{soft:2}{a} : {b} {label}"}, rows).prompt
    message = (
        'The prompt\'s template "{soft:2}{a} : {b} {label}" has these fields: a, b. Plain texts '
        "fit a template of one field; give rows with a value for each."
    )
    refused(message, lambda: backbone.predict(["late"], prompt))
    assert len(backbone.predict(rows, prompt)) == 10


def test_a_file_without_a_field_of_the_template_is_named(tmp_path, backbone, prompts):
    file = tmp_path / "rows.csv"
    file.write_text("message\nthank you\n")
    with pytest.raises(DataError) as error:
        ptune.predict(backbone, prompts["table"], str(file))
    assert str(error.value) == (
        f"{file}: there is no column text. Columns: message. The prompt reads it: its template is "
        f'"{prompts["table"].template}".'
    )


def test_rows_without_a_text_are_told_and_answered(backbone, prompts, caplog):
    with caplog.at_level(logging.WARNING, logger="ptune"):
        found = ptune.predict(backbone, prompts["table"], ["late", " ", ""])
    assert len(found) == 3
    said = "the given rows: 2 of 3 rows have no text in column text, the first is row 2."
    assert caplog.messages == [f"{said} They are kept."]


def test_bad_rows_are_left_out_of_predictions_which_know_their_rows(tmp_path, backbone, prompts):
    rows = [{"text": "thank you"}, {"text": None}, {"text": "very late"}]
    with pytest.raises(DataError):
        predict_kept(backbone, prompts["table"], rows)
    found = predict_kept(backbone, prompts["table"], rows, skip_bad_rows=True)
    assert found.rows.numbers == (1, 3)
    assert found.predictions == ptune.predict(backbone, prompts["table"], [rows[0], rows[2]])


def test_no_rows_are_refused(backbone, prompts):
    message = "the given rows: there are no rows. Give one or more."
    refused(message, lambda: backbone.predict([], prompts["table"]))


def test_a_row_without_a_value_is_refused_with_its_number(backbone, prompts):
    rows = [{"text": "late"}, {"text": None}]
    message = (
        'the given rows, row 2, column "text": the value is missing. '
        "Fill it in, or leave the row out."
    )
    refused(message, lambda: backbone.predict(rows, prompts["table"]))


def test_the_batch_size_changes_no_answer(backbone, prompts):
    for kind in KINDS:
        whole = backbone.predict(ROWS, prompts[kind], batch_size=10)
        for one, other in zip(
            whole, backbone.predict(ROWS, prompts[kind], batch_size=3), strict=True
        ):
            assert one.answer == other.answer
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_predicting_leaves_the_backbone_as_it_was(backbone, prompts):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    backbone.predict(["late"], prompts["deep"])
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any("_ptune" in module.__dict__ for module in backbone.model.modules())
    assert DEEP["method"] == prompts["deep"].settings["method"]
    assert HEAD["task"] == prompts["head"].task


def test_a_prompt_that_was_chosen_by_a_score_is_used_where_its_package_is_not_installed(
    backbone, monkeypatch
):
    settings = TABLE | {"answer": "text", "metric": "bleu", "loss": "vocabulary", "max_steps": 1}
    prompt = train(backbone, settings | {"max_new_tokens": 2}, validation=ROWS[:2]).prompt
    monkeypatch.setattr("ptune.texts.find_spec", lambda name: None)
    assert len(ptune.predict(backbone, prompt, ROWS[:2])) == 2


@pytest.mark.parametrize("rows", [{"text": "late"}, pandas.DataFrame(ROWS[:2])])
def test_what_is_no_list_of_texts_is_not_taken_for_one(prompts, rows):
    read = getattr(api._rows, "__wrapped__", api._rows)  # as in production
    with pytest.raises(DataError, match="rows cannot be read from a"):
        read(prompts["table"], rows)


def test_texts_may_come_one_by_one(backbone, prompts):
    said = ptune.predict(backbone, prompts["table"], (text for text in TEXTS[:2]))
    assert said == ptune.predict(backbone, prompts["table"], list(TEXTS[:2]))
