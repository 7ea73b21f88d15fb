import json
import re

import pytest

from ptune.errors import ConfigError
from ptune.verbalizer import Verbalizer


def refuses(message):
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}$")


def test_labels_keep_their_order_and_answer_for_themselves():
    verbalizer = Verbalizer.from_labels(["zebra", "ant", "mole"])
    assert verbalizer.labels == ("zebra", "ant", "mole")
    assert verbalizer.all_words == ("zebra", "ant", "mole")


def test_the_order_is_that_of_the_labels_and_not_of_the_words():
    verbalizer = Verbalizer.from_labels(["neg", "pos"], {"pos": ["good", "great"], "neg": "bad"})
    assert verbalizer.answers == (("neg", ("bad",)), ("pos", ("good", "great")))
    assert verbalizer.all_words == ("bad", "good", "great")


def test_every_word_leads_back_to_its_label():
    verbalizer = Verbalizer.from_labels(["neg", "pos"], {"pos": ["good", "great"], "neg": "bad"})
    for label in verbalizer.labels:
        assert [verbalizer.label(word) for word in verbalizer.words(label)] == [
            label for _ in verbalizer.words(label)
        ]


def test_white_space_around_a_word_does_not_count():
    verbalizer = Verbalizer.from_labels(["no complaint ", "complaint"], {"complaint": " angry\n"})
    assert verbalizer.words("no complaint ") == ("no complaint",)
    assert verbalizer.label("  angry") == "complaint"


def test_words_may_be_of_several_words_and_any_script():
    verbalizer = Verbalizer.from_labels(["pos", "neg"], {"pos": "très bien", "neg": "まずい"})
    assert verbalizer.label("très bien") == "pos"
    assert verbalizer.label("まずい") == "neg"


def test_json_and_back_is_the_same_verbalizer():
    verbalizer = Verbalizer.from_labels(["z", "a"], {"z": ["one", "two"], "a": 'qu"ote'})
    document = json.loads(json.dumps(verbalizer.to_dict()))
    assert document == {"z": ["one", "two"], "a": ['qu"ote']}
    assert Verbalizer.from_dict(document) == verbalizer


def test_two_labels_with_one_word_are_refused():
    with refuses(
        'verbalizer: labels "pos" and "neg" have the same word "fine", '
        "so an answer could not be told apart. Give each its own."
    ):
        Verbalizer.from_labels(["pos", "neg"], {"pos": ["good", "fine"], "neg": "fine"})


def test_a_label_that_answers_for_itself_may_clash_too():
    with refuses(
        'verbalizer: labels "a" and "b" have the same word "b", '
        "so an answer could not be told apart. Give each its own."
    ):
        Verbalizer.from_labels(["a", "b"], {"a": "b"})


def test_a_word_given_twice_is_refused():
    with refuses('verbalizer: label "pos" has the word "good" twice. Keep one.'):
        Verbalizer.from_labels(["pos"], {"pos": ["good", " good"]})


def test_a_label_given_twice_is_refused():
    with refuses('verbalizer: label "pos" stands twice. Keep one.'):
        Verbalizer.from_labels(["pos", "neg", "pos"])


@pytest.mark.parametrize("answer", ["", "  ", [], ["good", " "]])
def test_an_empty_answer_is_refused(answer):
    with refuses('verbalizer: label "pos" has an empty answer. Give a word.'):
        Verbalizer.from_labels(["pos"], {"pos": answer})


def test_no_labels_are_refused():
    with refuses("verbalizer: there are no labels. Give at least one."):
        Verbalizer.from_labels([])


def test_words_for_an_unknown_label_are_refused():
    with refuses(
        'verbalizer: unknown label "complaints". Known: complaint, praise. Did you mean complaint?'
    ):
        Verbalizer.from_labels(["complaint", "praise"], {"complaints": "angry"})


def test_asking_for_an_unknown_label_is_refused():
    with refuses('verbalizer: unknown label "xyz". Known: pos, neg.'):
        Verbalizer.from_labels(["pos", "neg"]).words("xyz")


def test_asking_for_an_unknown_word_is_refused():
    with refuses('verbalizer: unknown word "grate". Known: great, bad. Did you mean great?'):
        Verbalizer.from_labels(["pos", "neg"], {"pos": "great", "neg": "bad"}).label(" grate")
