import json
import re

import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


def run(task, method, seed, accuracy):
    return {
        "bench": "quality_causal",
        "kind": "run",
        "task": task,
        "method": method,
        "seed": seed,
        "rows": 1500,
        "test_rows": None,
        "lr": None,
        "model": "tiny",
        "test": {"accuracy": accuracy, "macro_f1": accuracy / 2},
        "held_out": {"accuracy": accuracy + 0.1},
        "steps": 10,
        "seconds": 2.0,
        "trained": 1000,
        "settings": {"lr": 0.3, "epochs": 5, "batch_size": 16, "validation_share": 0.2},
        "machine": MACHINE,
    }


@pytest.fixture
def results(tmp_path):
    lines = [run("trec", "p", 0, 0.1), run("trec", "p", 0, 0.5), run("trec", "p", 1, 0.7)]
    lines += [run("other", "p", 0, 0.9)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "quality_causal.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_block_is_made_anew_from_the_last_result_of_each_seed(results):
    import tables

    before = "a\n<!-- bench:quality_causal/trec -->\n42.0 by hand\n<!-- /bench -->\nb\n"
    after = tables.rewrite(before, results)
    assert after == (
        "a\n<!-- bench:quality_causal/trec -->\n"
        "| method | trained | accuracy | macro F1 | accuracy, held out | seeds | lr | steps |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
        "| p | 1,000 | 60.0 ± 14.1 | 30.0 ± 7.1 | 70.0 ± 14.1 | 2 | 0.3 | 10 |\n\n"
        "Settings: trec with tiny, training rows: 1,500 by seed; all test rows, scored once a run; "
        "epochs 5, batch 16, the best epoch chosen on a share of 0.2 of the training rows, held "
        "out by seed and the same for all methods; accuracy and macro F1 in percent, mean ± "
        "standard deviation of the sample over the seeds; a CPU, 1 threads of 2 cores; python 3, "
        "ptune 0.\n"
        "<!-- /bench -->\nb\n"
    )
    assert tables.rewrite(after, results) == after


def shown_of(lines):
    import quality_tables

    return quality_tables.table(lines)


def test_which_seeds_is_said_where_they_are_not_the_first():
    assert "| 2 (1, 2) | 0.3 |" in shown_of([run("trec", "p", 2, 0.5), run("trec", "p", 1, 0.5)])


def test_a_rate_at_the_edge_of_its_grid_is_marked():
    grid = [run("trec", "p", 100, 0.5) | {"kind": "grid", "lr": lr} for lr in (0.1, 0.3, 1.0)]

    def with_rate(lr, task="trec"):
        return shown_of([*grid, run(task, "p", 0, 0.5) | {"lr": lr}])

    assert "| 1 | 0.3 | 10 |" in with_rate(0.3)
    assert "(edge)" not in with_rate(0.3)
    assert "| 1 | 0.1 (edge) | 10 |" in with_rate(0.1)
    assert "(edge): the smallest or the largest rate that was tried" in with_rate(0.1)
    assert "| 1 | 1 (edge) | 10 |" in with_rate(1.0, task="other")  # the rate of another's grid
    own = [run("other", "p", 100, 0.5) | {"kind": "grid", "lr": lr} for lr in (0.5, 1.0, 2.0)]
    assert "(edge)" not in shown_of([*grid, *own, run("other", "p", 0, 0.5) | {"lr": 1.0}])


def test_below_the_table_stands_what_is_not_the_same_for_all_methods():
    prompt = run("sst2", "v2", 0, 0.5)
    prompt["settings"] |= {"method": "p-tuning-v2", "average": 0.99}
    peer = run("sst2", "PEFT PREFIX_TUNING", 0, 0.5) | {"bench": "quality_encoder"}
    shown = shown_of([prompt, peer])
    assert (
        "prompts of ptune's are judged and kept as the mean of their last steps (average: 0.99), "
        "and nothing else is; PEFT PREFIX_TUNING reads [CLS]" in shown
    )
    assert "the mean of their last steps" not in shown_of([peer])


def test_blocks_do_not_run_into_each_other(results):
    import tables

    one = "<!-- bench:defaults -->\nold\n<!-- /bench -->\n"
    text = f"{one}kept\n{one}"
    assert tables.rewrite(text, results).count("Nothing was measured yet.") == 2
    assert "kept" in tables.rewrite(text, results)


def test_an_unknown_name_is_refused(results):
    import tables

    known = list(tables.MAKERS)
    assert {"classic_job", "v2_encoder"} <= set(known)
    said = f'"bench:speed" is unknown. Known: {", ".join(known)}.'
    with pytest.raises(ValueError, match=re.escape(said)):
        tables.rewrite("<!-- bench:speed -->\n<!-- /bench -->", results)
