import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch


@pytest.fixture
def common():
    import common

    return common


def test_results_are_appended_and_read_back(common, tmp_path):
    file = tmp_path / "deep" / "results.jsonl"
    assert common.read_lines(file) == []
    common.write_line(file, {"task": "é", "seed": 0})
    common.write_line(file, {"task": "é", "seed": 1})
    assert common.read_lines(file) == [{"task": "é", "seed": 0}, {"task": "é", "seed": 1}]
    common.write_line(None, {"not": "kept"})


def test_the_last_result_of_a_run_counts(common):
    lines = [{"seed": 0, "x": 1}, {"seed": 1, "x": 2}, {"seed": 0, "x": 3}]
    assert common.latest(lines, "seed") == [{"seed": 0, "x": 3}, {"seed": 1, "x": 2}]


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("4,", [4]), ("3-4", [3, 4]), ("0,2-3", [0, 2, 3])]
)
def test_seeds_are_a_count_or_a_list(common, text, seeds):
    assert common.numbers(text) == seeds


def test_the_spread_of_one_value_is_not_told(common):
    assert common.mean_spread([0.25]) == "25.0"
    assert common.mean_spread([0.5, 0.7]) == "60.0 ± 14.1"


def test_without_data_the_script_ends_with_a_sentence(common, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        common.find_data("trec", tmp_path)
    assert end.value.code == 0
    assert capsys.readouterr().err == (
        "The data set trec is not here, so nothing is measured. Put its files in a folder trec/ "
        "and name the folder above it with --data.\n"
    )


def test_a_standing_run_is_known_by_all_that_was_asked(common, tmp_path):
    import quality
    from quality_causal import BENCHMARK

    file = tmp_path / "results.jsonl"
    args = Namespace(json=file, rows=None, test_rows=None, epochs=3, batch_size=None, threads=1)
    session = quality.Session(BENCHMARK, args)
    method = BENCHMARK.methods["p-tuning-v2"]
    recipe = BENCHMARK.recipe(args, method, 0)
    key = session._key("run", BENCHMARK.tasks["trec"], "p-tuning-v2", recipe, None)
    common.write_line(file, {**key, "test": {"accuracy": 0.5}})
    assert session._standing(key) == json.loads(json.dumps(key)) | {"test": {"accuracy": 0.5}}
    other = session._key(
        "run", BENCHMARK.tasks["trec"], "p-tuning-v2", recipe.changed(lr=1.0), None
    )
    assert session._standing(other) is None


def test_a_baseline_is_not_measured_again_when_a_prompts_default_changes(tmp_path):
    import quality
    from quality_causal import BENCHMARK

    args = Namespace(json=None, rows=None, test_rows=None, epochs=3, batch_size=None, threads=1)
    session = quality.Session(BENCHMARK, args)
    recipe = BENCHMARK.recipe(args, BENCHMARK.methods["LoRA"], 0)
    task = BENCHMARK.tasks["trec"]
    before = session._key("run", task, "LoRA", recipe, None)
    assert before == session._key("run", task, "LoRA", recipe.changed(lr=1.0), None)
    assert before != session._key("run", task, "LoRA", recipe.changed(epochs=9), None)


@pytest.mark.parametrize(
    ("peft", "transformers", "refused"),
    [
        ("0.21.2", "5.23.0", False),
        ("0.21.2", "5.24.0", True),
        ("0.20.0", "6.0.0.dev0", True),
        ("0.22.0", "5.24.0", False),
        (None, "5.23.0", True),
    ],
)
def test_prefixes_of_peft_are_refused_where_they_do_not_reach_the_model(
    common, monkeypatch, peft, transformers, refused
):
    found = {"machine": {"peft": peft, "transformers": transformers}}
    monkeypatch.setattr(common, "machine", lambda: found)
    why = common.no_prefixes()
    assert (why is not None) == refused
    if peft and refused:
        assert f"PEFT {peft} " in why
        assert f"transformers {transformers}. Install transformers 5.23: pip install" in why


def test_a_method_that_cannot_be_measured_is_left_out_and_says_why(capsys):
    import quality
    from quality_causal import BENCHMARK

    refused = quality.Method(run=None, refusal=lambda: "Install another.")
    bench = replace(BENCHMARK, methods={**BENCHMARK.methods, "PEFT": refused})
    session = quality.Session(bench, Namespace())
    assert [name for name in bench.methods if session.refuses(name)] == ["PEFT"]
    assert capsys.readouterr().err == "PEFT is left out. Install another.\n"


def test_of_a_baseline_only_what_governs_it_is_kept():
    import quality
    from quality_causal import BENCHMARK

    args = Namespace(epochs=3, batch_size=None)
    recipe = BENCHMARK.recipe(args, BENCHMARK.methods["LoRA"], 0)
    weight = torch.nn.Parameter(torch.zeros(1))

    class Learner:
        def groups(self):
            return [{"params": [weight], "lr": 0.1}]

        def loss(self, rows):
            return (weight - 1).square().sum()

        def scores(self, rows):
            return {"accuracy": 0.5}

    outcome = quality.fit(Learner(), quality.Data([1, 2], None, None), recipe)
    prompt = {"average", "pooling", "prompt_length", "init", "encoder", "head_lr", "method"}
    assert not prompt & set(outcome.settings)
    assert {"epochs", "batch_size", "schedule", "clip", "seed"} <= set(outcome.settings)


def test_no_seeds_at_all_are_refused(common):
    with pytest.raises(SystemExit, match=r'^seeds: "0" is a count, .* Seed 0: "0,"\.$'):
        common.numbers("0")
