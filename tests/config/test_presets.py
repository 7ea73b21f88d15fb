"""The papers' settings: schedules, protocols and inputs of their code, run by run."""

import pytest
import tiny_tokenizers

from ptune.config import Recipe
from ptune.config.presets import presets
from ptune.template import Template

TAGGING = {
    "conll03-roberta-large", "conll04-bert-large", "conll04-roberta-large", "ontonotes-bert-large",
    "ontonotes-roberta-large", "srl-conll12-roberta-large", "srl-conll05-wsj-roberta-large",
}  # fmt: skip
SPANS = {"squad-roberta-large", "squad-v2-roberta-large"}


def runs_of(group):
    """The recipes of a group, by the names of its runs."""
    own = (name for name in presets() if name.startswith(f"{group}/"))
    return {name.removeprefix(f"{group}/"): Recipe.make(preset=name) for name in own}


def test_step_sizes_of_p_tuning_v2_fall_by_epochs_but_on_superglue():
    found = {name: (run.schedule, run.epoch_decay) for name, run in runs_of("p-tuning-v2").items()}
    by_epoch = {name for name, how in found.items() if how == ("exponential", 0.95)}
    assert by_epoch == TAGGING | SPANS
    assert {found[name] for name in found.keys() - by_epoch} == {("linear", None)}


def test_step_sizes_of_p_tuning_on_lama_fall_by_two_percent_an_epoch():
    found = {(run.schedule, run.epoch_decay) for run in runs_of("p-tuning").values()}
    assert found == {("exponential", 0.98)}


def test_the_backbones_dropout_is_on_as_in_the_authors_code():
    runs = [*runs_of("p-tuning-v2").values(), *runs_of("p-tuning").values()]
    assert len(runs) > 20
    assert all(run.backbone_dropout for run in runs)


def test_tagging_reports_test_rows_and_the_rest_of_p_tuning_v2_the_best_epoch():
    found = {name: run.protocol for name, run in runs_of("p-tuning-v2").items()}
    assert {name for name, protocol in found.items() if protocol == "strict"} == TAGGING
    assert {found[name] for name in found.keys() - TAGGING} == {"paper"}


def test_tagging_is_cut_where_the_model_ends():
    runs = runs_of("p-tuning-v2")
    assert {runs[name].max_tokens for name in TAGGING} == {512}


@pytest.mark.parametrize("kind", ["roberta", "wordpiece"])
def test_the_roles_of_one_sentence_depend_on_the_predicate_that_is_asked_about(kind):
    words = ["it", "was", "great"]
    rows = [{"tokens": words, "predicate": word} for word in ("was", "great")]
    for name in ("srl-conll12-roberta-large", "srl-conll05-wsj-roberta-large"):
        template = Template.parse(runs_of("p-tuning-v2")[name].template)
        tokenizer = tiny_tokenizers.tokenizer_of(kind)
        first, second = template.bind(tokenizer, max_tokens=64, words="tokens").render(rows)
        assert first.ids != second.ids
        assert first.words == second.words
        assert len(first.words) == len(words)
        # As in the authors' code the separator is a word, special or not, and so is the predicate.
        assert list(second.ids) == tokenizer(" it was great [SEP] great")["input_ids"]
