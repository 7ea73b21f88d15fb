import pytest
from probing.facts_of import RELATIONS, SUBJECTS, facts, write_folder, write_lines

from ptune.errors import ConfigError, DataError
from ptune.probing.facts import Columns, Shares, find_facts

SHARES = Shares(validation=0.25, test=0.2, seed=0)


def pairs(rows):
    return [(row["subject"], row["object"]) for row in rows]


def test_a_folder_with_a_file_a_relation_is_split_by_seed(tmp_path):
    found = find_facts(write_folder(tmp_path))
    assert found.names == ("P1", "P2", "P3")
    assert found.templates["P1"] == "[X] is very [Y] ."
    split = found.read("P2", SHARES)
    parts = [pairs(split.train), pairs(split.validation), pairs(split.test)]
    assert [len(part) for part in parts] == [12, 4, 4]
    whole = [(row["sub_label"], row["obj_label"]) for row in RELATIONS["P2"]]
    assert sorted(pair for part in parts for pair in part) == sorted(whole)
    assert pairs(found.read("P2", SHARES).test) == parts[2]
    other = found.read("P2", Shares(validation=0.25, test=0.2, seed=1))
    assert pairs(other.test) != parts[2]


def test_a_folder_a_relation_has_its_splits_in_files(tmp_path):
    rows = facts(["one", "two"])
    write_lines(tmp_path / "P9" / "train.jsonl", rows[:9])
    write_lines(tmp_path / "P9" / "dev.jsonl", rows[9:12])
    write_lines(tmp_path / "P9" / "test.jsonl", rows[12:])
    write_lines(tmp_path / "P8" / "train.jsonl", rows[:10])
    found = find_facts(tmp_path)
    split = found.read("P9", SHARES)
    assert [len(split.train), len(split.validation), len(split.test)] == [9, 3, 8]
    drawn = found.read("P8", SHARES)
    assert [len(drawn.train), len(drawn.validation), len(drawn.test)] == [6, 2, 2]
    assert found.read("P8", Shares(0.0, 0.2, 0)).validation is None


def test_one_file_has_a_column_for_the_relation_and_any_names(tmp_path):
    rows = [
        {"who": row["sub_label"], "what": row["obj_label"], "kind": name}
        for name, own in RELATIONS.items()
        for row in own
    ]
    write_lines(tmp_path / "facts.jsonl", rows)
    found = find_facts(tmp_path / "facts.jsonl", Columns("who", "what", "kind"))
    assert found.names == ("P1", "P2", "P3")
    split = found.read("P3", SHARES)
    several = [*pairs(split.train), *pairs(split.validation), *pairs(split.test)]
    assert sorted(subject for subject, _ in several) == sorted(SUBJECTS)


@pytest.mark.parametrize("name", ["a/b", "..", "a\0b", "/a"])
def test_a_relation_whose_name_would_lead_out_of_its_folder_is_refused(tmp_path, name):
    rows = [row | {"relation": name} for row in RELATIONS["P1"]]
    write_lines(tmp_path / "facts.jsonl", rows)
    found = find_facts(tmp_path / "facts.jsonl")
    with pytest.raises(DataError, match="cannot be the name of a folder, where its prompt would"):
        found.read(name, SHARES)


def test_an_unknown_relation_is_refused_with_the_known_ones(tmp_path):
    found = find_facts(write_folder(tmp_path))
    assert found.chosen(["P3", "P1", "P3"]) == ("P3", "P1")
    assert found.chosen([]) == ("P1", "P2", "P3")
    with pytest.raises(ConfigError) as error:
        found.chosen(["P11"])
    assert str(error.value) == (
        f"{tmp_path}: there is no relation P11. Did you mean P1? It has: P1, P2, P3."
    )


def test_what_holds_no_relation_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no relation\. A relation is a folder with train"):
        find_facts(tmp_path)
    write_lines(tmp_path / "facts.jsonl", RELATIONS["P1"])
    with pytest.raises(DataError, match="there is no column relation that says which relation"):
        find_facts(tmp_path / "facts.jsonl")


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({"obj_label": None}, "column obj_label holds no object. Give one, or delete the row."),
        ({"sub_label": " "}, "column sub_label holds no subject. Give one, or delete the row."),
    ],
)
def test_a_fact_without_a_value_names_its_line(tmp_path, fact, said):
    rows = [*facts(["one"]), {"sub_label": "film", "obj_label": "one"} | fact]
    found = find_facts(write_folder(tmp_path, {"P1": rows}))
    with pytest.raises(DataError) as error:
        found.read("P1", SHARES)
    assert str(error.value) == f"{tmp_path / 'P1.jsonl'}, line 21: {said}"


def test_a_relation_with_two_templates_is_refused_with_both_lines(tmp_path):
    write_folder(tmp_path)
    lines = [("P1", "[X] is [Y] ."), ("P2", "[X] [Y]"), ("P1", "[X] was [Y] .")]
    write_lines(tmp_path / "relations.jsonl", [{"relation": n, "template": t} for n, t in lines])
    with pytest.raises(DataError) as error:
        find_facts(tmp_path)
    file = tmp_path / "relations.jsonl"
    assert str(error.value) == (
        f"{file}, line 3: relation P1 has a template in {file}, line 1 already. Keep one of them."
    )


def test_a_folder_in_the_place_of_a_file_of_facts_is_refused(tmp_path):
    write_lines(tmp_path / "P8" / "train.jsonl", facts(["one"]))
    (tmp_path / "P34" / "train.jsonl").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        find_facts(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'P34' / 'train.jsonl'}: is a folder, where the facts of a relation should "
        "be a file. Put the file in its place, or rename the folder."
    )


@pytest.mark.parametrize(
    ("shares", "option"),
    [
        (Shares(validation=0.2, test=0.3, seed=0), "--test-share = 0.3 of 1 rows leaves none to"),
        (Shares(validation=0.2, test=0.5, seed=0), "--test-share = 0.5 of 1 rows leaves none to"),
    ],
)
def test_too_few_facts_to_test_on_name_the_share_of_the_test(tmp_path, shares, option):
    found = find_facts(write_folder(tmp_path, {"P1": facts(["one"], ["film"])}))
    with pytest.raises(DataError) as error:
        found.read("P1", shares)
    assert option in str(error.value)
    assert str(error.value).endswith("Change the share, add rows, or add a test.jsonl.")


def test_too_few_facts_to_choose_by_name_the_share_of_the_recipe(tmp_path):
    found = find_facts(write_folder(tmp_path, {"P1": facts(["one"], ["film", "text"])}))
    with pytest.raises(
        DataError, match=r"validation_share = 0\.2 of 1 rows .* add a dev\.jsonl\.$"
    ):
        found.read("P1", Shares(validation=0.2, test=0.5, seed=0))
