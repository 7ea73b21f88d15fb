import json

import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


def test_the_table_says_what_is_over_and_where_it_goes():
    import first_step

    parts = dict.fromkeys(first_step.SHOWN, 0.25) | {"imports": 4.0, "whole": 6.0}
    line = {"recipe": "the demo's", "runs": 5, "ptune": parts, "needed": {"whole": 5.5}}
    table = first_step.table([line | {"machine": MACHINE}])
    assert table.splitlines()[2] == (
        "| the demo's | 5.50 | 6.00 | +0.50 | 4.00 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 |"
    )


def test_the_parts_add_up_to_the_whole(monkeypatch, capsys):
    import first_step

    clock = iter([16.0, 17.5])
    monkeypatch.setattr(first_step.time, "time", lambda: next(clock))
    spent = {"imports": 3.0, "rows": 0.5, "model and tokenizer": 1.0, "probe": 0.25,
             "prompt's start": 0.25}  # fmt: skip
    watch = first_step.Watch(spent, begun=10.0)
    watch.on_start(None, {})
    with pytest.raises(SystemExit):
        watch.on_step(1, None, 0.7)
    said = json.loads(capsys.readouterr().out.removeprefix("@"))
    assert said.pop("whole") == 7.5
    assert sum(said.values()) == 7.5  # the probe is within the model's second
    assert set(said) == set(first_step.SHOWN)
