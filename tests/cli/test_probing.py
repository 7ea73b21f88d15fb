import json
import re

import pytest
import tiny
from probing.facts_of import NUMBERS, facts, write_folder, write_lines

WORDS = [*NUMBERS, "yes", "no", "good"]


@pytest.fixture(scope="module")
def trex(place):
    write_folder(place / "trex")
    (place / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return place / "trex"


@pytest.fixture(scope="module")
def say(trex, place):
    return ["probe", trex, f"backbone={place}/backbone", "epochs=1", "--method", "manual"]


def test_probe_shows_a_table_and_goes_on_where_it_was(ptune, say, place, tmp_path):
    words = ["--vocabulary", place / "words.txt", "--output", tmp_path / "run"]
    code, out, err = ptune(*say, *words, "--relation", "P1")
    assert code == 0
    assert re.fullmatch(r"1 of 1  P1, manual: P@1 \S+, P@10 \S+, MRR \S+ on 4 facts\n", err)
    code, out, err = ptune(*say, *words, "--method", "prompt-tuning")
    assert code == 0
    told = [line.split(":")[0] for line in err.splitlines()]
    assert told == [
        "1 of 3  P1, prompt-tuning",
        "2 of 3  P2, manual",
        "2 of 3  P2, prompt-tuning",
        "3 of 3  P3, manual",
        "3 of 3  P3, prompt-tuning",
    ]
    rows = [line.strip("│┃ ").split() for line in out.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["P1", "P2", "P3", "mean"]
    kept = json.loads((tmp_path / "run" / "probe.json").read_text(encoding="utf-8"))
    scores = [one["scores"] for one in kept["methods"]["manual"]["relations"].values()]
    mean = 100 * sum(one["p_at_10"] for one in scores) / 3
    assert f" {mean:.1f} " in out.split("mean")[1]
    assert "mean: over 3 of 3 relations, those that every method could do." in out
    assert (tmp_path / "run" / "prompt-tuning" / "P3" / "prompt" / "prompt.json").exists()


def test_probe_prints_json_for_a_script(ptune, say, tmp_path):
    code, out, err = ptune(*say, "--output", tmp_path / "run", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)["methods"]["manual"]
    assert set(told["relations"]) == {"P1", "P2", "P3"}
    mean = sum(one["scores"]["mrr"] for one in told["relations"].values()) / 3
    assert told["mean"]["mrr"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--relation", "P12"], "there is no relation P12. Did you mean P2? It has: P1, P2, P3."),
        (["--template", "{soft:3} {mask}"], "there is no {subject}, so nothing is asked"),
        (["--template", "{soft:3} {subject}"], "there is no place for the object."),
        (["--template", "3,3,3"], "a causal model never sees {soft:3}"),
        (["--mask-first"], "--mask-first: a causal model says its answer behind"),
        (["--method", "ptuning"], "--method ptuning is unknown. Known: manual, p-tuning"),
        (["method=p-tuning"], "method=p-tuning: ptune probe takes it as --method."),
        (["loss=labels"], "loss=labels: ptune probe decides loss for every relation. Leave it"),
        (
            ["train_backbone=true"],
            "train_backbone=true: ptune probe asks what the backbone knows as it is, and never",
        ),
        (["backbone_lr=1e-3"], "backbone_lr=1e-3: ptune probe asks what the backbone knows as"),
        (["bad_rows=skip"], "bad_rows=skip: ptune probe refuses a relation with a bad row, and"),
        (["group_column=g"], "group_column=g: ptune probe has no use for it, and would ignore"),
        (
            ["preset=p-tuning-v2/rte-roberta-large"],
            "preset=p-tuning-v2/rte-roberta-large: is no run of probing. Those are p-tuning/lama-",
        ),
        (["epoch=3"], "epoch"),
        (["--vocabulary", "nowhere.txt"], "nowhere.txt: the list of words cannot be read"),
        (["--templates", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--method", "p-tuning", "--template", "{subject} {mask}"], "has no virtual tokens"),
    ],
)
def test_a_mistake_is_one_sentence(ptune, say, tmp_path, more, said):
    code, _, err = ptune(*say, "--output", tmp_path / "run", *more)
    assert code == 1
    assert said in err
    assert "Traceback" not in err


def test_no_step_is_said_to_be_chosen_where_there_are_no_rows_to_choose_by(ptune, say, tmp_path):
    output = ["--output", tmp_path / "run", "--relation", "P1", "validation_share=0"]
    _, out, _ = ptune(*say, *output, "--json")
    said = (
        "strict: the step was chosen on the validation rows (where there are none, the last one is "
        "kept), the test rows scored once."
    )
    assert json.loads(out)["protocol"] == said
    kept = json.loads((tmp_path / "run" / "probe.json").read_text(encoding="utf-8"))
    assert kept["protocol"] == said


def test_facts_that_are_trained_on_and_those_that_are_cut_are_told(ptune, place, tmp_path):
    long = {"sub_label": "film " * 40, "obj_label": "good"}
    rows = facts(NUMBERS)
    for split, own in (("train", rows), ("dev", rows[:3]), ("test", [*rows[:2], long])):
        write_lines(tmp_path / "facts" / "P5" / f"{split}.jsonl", own)
    say = ["probe", tmp_path / "facts", f"backbone={place}/backbone", "epochs=1", "max_tokens=32"]
    ways = ["--template", "{subject} is {label}", "--method", "manual", "--method", "p-tuning-v2"]
    code, out, _ = ptune(*say, *ways, "--output", tmp_path / "run")
    assert code == 0
    assert (
        "facts to test are trained on too: their score is no knowledge, by relation: P5 (2).\n"
        "facts to test were longer than max_tokens and were cut, by relation: P5 (1).\n"
    ) in out


def test_the_papers_runs_are_taken_by_name(ptune, say, place, tmp_path):
    more = ["preset=p-tuning/lama-gpt2-medium", "--method", "p-tuning", "--template", "3,3,0"]
    more += ["--output", tmp_path / "run", "--relation", "P1"]
    code, _, err = ptune(*say, *more)
    assert code == 1
    assert err.endswith("Set backbone_dropout: false.\n")  # this backbone has none
    code, _, err = ptune(*say, *more, "backbone_dropout=false")
    assert code == 0, err
    kept = json.loads((tmp_path / "run" / "probe.json").read_text(encoding="utf-8"))
    settings = kept["methods"]["p-tuning"]["settings"]
    assert (settings["init"], settings["lr"], settings["seed"]) == ("paper", 1e-5, 34)


def test_a_missing_backbone_is_asked_for(ptune, trex):
    code, _, err = ptune("probe", trex)
    assert (code, err) == (
        1,
        "ptune: backbone is missing. Add backbone=NAME, a model's name or its folder.\n",
    )


def test_a_run_in_which_no_relation_could_be_probed_fails(ptune, say, place, tmp_path):
    (tmp_path / "words.txt").write_text("seven\n", encoding="utf-8")
    words = ["--vocabulary", tmp_path / "words.txt", "--output", tmp_path / "run"]
    code, _, err = ptune(*say, *words, "--relation", "P1")
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("ptune: no relation could be probed. The first one: P1: no fact is left")


def test_vocabulary_writes_the_words_that_models_share(ptune, place, tmp_path):
    file = tmp_path / "words.txt"
    code, out, _ = ptune("vocabulary", place / "backbone", place / "other", "--output", file)
    words = file.read_text(encoding="utf-8").split()
    assert (code, out) == (0, f"{len(words)} words written to {file}\n")
    assert set(words) == {w for w in tiny.WORDS if w.isalpha()}
    code, _, err = ptune("vocabulary", tmp_path / "none", "--output", file)
    assert code == 1
    assert 'none" cannot be loaded' in err
