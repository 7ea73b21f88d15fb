"""Tags of words: schemes, faults, entities, scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.spans import spans, three

from ptune.tags import entities_of, fault, scheme_of, scores, types_of


def bio(pieces):
    """Well written tags of entities (type, length); without a type: words outside."""
    tags = []
    for kind, length in pieces:
        tags += ["O"] * length if kind is None else [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
    return tags


pieces = st.tuples(st.sampled_from([None, "PER", "creative-work"]), st.integers(1, 3))
sentences = st.lists(pieces, min_size=1, max_size=5).map(bio)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "bio"),
        (["I-PER"], "bio"),
        (["O", "S-PER"], "bioes"),
        (["B-PER", "E-PER"], "bioes"),
        (["NOUN", "VERB"], "plain"),
        (["O"], "plain"),
        (["B", "I"], "plain"),
    ],
)
def test_the_scheme_is_found_by_the_prefixes(tags, scheme):
    assert scheme_of(tags) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "at"),
    [
        ("B-A I-A O B-B", "bio", None),
        ("B-A B-A", "bio", None),
        ("I-A", "bio", 0),
        ("O I-A", "bio", 1),
        ("B-A I-B", "bio", 1),
        ("B-A O I-A", "bio", 2),
        ("B-A E-A", "bio", 1),
        ("B-A X-A", "bio", 1),
        ("B-A A", "bio", 1),
        ("I-A I-B B-B O I-A", "iob1", None),
        ("S-A", "iob1", 0),
        ("B-A I-A E-A S-B O", "bioes", None),
        ("B-A O", "bioes", 1),
        ("B-A S-A", "bioes", 1),
        ("B-A I-B", "bioes", 1),
        ("O E-A", "bioes", 1),
        ("S-A I-A", "bioes", 1),
        ("E-A", "bioes", 0),
        ("O B-A", "bioes", 1),
        ("B-A I-A", "bioes", 1),
        ("I-A whatever X-1", "plain", None),
    ],
)
def test_the_first_tag_that_its_scheme_forbids_is_found(tags, scheme, at):
    found = fault(tags.split(), scheme)
    assert (None if found is None else found[0]) == at


@given(sentences)
@settings(max_examples=60, deadline=None)
def test_well_written_tags_have_no_fault_and_the_entities_of_the_slow_way(tags):
    assert fault(tags, "bio") is None
    assert set(entities_of(tags, "bio")) == spans(tags)


def test_entities_of_other_schemes():
    assert entities_of(["I-A", "I-A", "B-A", "O"], "iob1") == [("A", 0, 2), ("A", 2, 3)]
    assert entities_of(["S-A", "B-B", "I-B", "E-B"], "bioes") == [("A", 0, 1), ("B", 1, 4)]
    assert entities_of(["X", "Y"], "plain") == [("X", 0, 1), ("Y", 1, 2)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_the_slow_way(data):
    truth = data.draw(st.lists(sentences, min_size=1, max_size=4))
    predicted = []
    for tags in truth:  # cut or filled to the same length, and well written
        other = [*data.draw(sentences), *["O"] * len(tags)][: len(tags)]
        predicted.append(data.draw(st.sampled_from([tags, other])))
    found = scores(truth, predicted, "bio")
    names = ("f1", "precision", "recall")
    assert [found[name] for name in names] == pytest.approx(three(truth, predicted))
    true = {kind for tags in truth for kind, _, _ in spans(tags)}
    assert {name.split("/")[0] for name in found if "/" in name} == true
    for kind in true:
        assert [found[f"{kind}/{name}"] for name in names] == pytest.approx(
            three(truth, predicted, kind)
        )
    pairs = [p for t, s in zip(truth, predicted, strict=True) for p in zip(t, s, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_an_entity_of_the_wrong_length_or_type_is_wrong():
    truth = [["B-A", "I-A", "O", "B-B"]]
    assert scores(truth, [["B-A", "O", "O", "B-A"]], "bio")["f1"] == 0.0
    assert scores(truth, [["B-A", "I-A", "O", "B-A"]], "bio")["f1"] == 0.5


def test_plain_tags_are_entities_of_one_word():
    found = scores([["N", "V", "N", "O"]], [["N", "V", "V", "O"]], "plain")
    assert found["f1"] == found["precision"] == found["recall"] == found["accuracy"] == 0.75
    assert (found["N/precision"], found["N/recall"]) == (1.0, 0.5)
    assert found["O/f1"] == 1.0


def test_where_there_is_nothing_to_find_the_scores_are_zero():
    found = scores([["O", "O"]], [["O", "B-A"]], "bio")
    assert found == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.5}


def test_types_are_what_stands_behind_the_prefix():
    assert types_of(["O", "B-a-b", "I-a-b", "S-c"], "bioes") == ["a-b", "c"]
    assert types_of(["N", "O"], "plain") == ["N", "O"]
