from types import SimpleNamespace

import pytest

from ptune.batch import TokenSequence


@pytest.fixture
def job():
    import classic_job

    return classic_job


def example(ids, target):
    return SimpleNamespace(sequence=TokenSequence(ids), target=target)


def test_the_padded_row_is_the_packed_one_without_its_virtual_tokens(job, monkeypatch):
    monkeypatch.setattr(job, "PADDED", 6)
    rows = [example((-1, -2, 5, 6, 7), (7, 8)), example((-1, -2, 5, 6), (9,))]
    inputs = job.padded(rows, 0)
    assert inputs["input_ids"].tolist() == [[0, 0, 5, 6, 7, 8], [0, 0, 0, 5, 6, 9]]
    assert inputs["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert inputs["labels"].tolist() == [
        [-100, -100, -100, -100, 7, 8],
        [-100, -100, -100, -100, -100, 9],
    ]


def line(side, losses, method="prompt-tuning"):
    return {"side": side, "format": "float32", "method": method, "losses": losses}


def test_losses_that_differ_end_the_script(job):
    lines = [line("peft", [1.0, 2.0]), line("ptune vocabulary", [1.0, 2.00005])]
    assert job.check_losses(lines) == (
        "prompt-tuning, float32: all 2 losses are equal to PEFT's to 5.0e-05 (asserted: 1e-04)."
    )
    lines = [line("peft", [1.0, 2.0]), line("ptune vocabulary", [1.0, 2.1])]
    with pytest.raises(SystemExit, match="prompt-tuning: the losses of PEFT and ptune differ"):
        job.check_losses(lines)
    lines = [line("peft", [1.0]), line("ptune vocabulary", [float("nan")])]
    with pytest.raises(SystemExit):
        job.check_losses(lines)


def test_with_an_encoder_only_the_first_loss_is_the_same_computation(job):
    lines = [line("peft", [1.0, 2.0], "p-tuning")]
    lines += [line("ptune vocabulary", [1.0, 3.0], "p-tuning")]
    assert "the first loss is equal" in job.check_losses(lines)


def test_bfloat16_is_compared_with_the_faster_side_of_peft_in_it(job):
    shape = {"method": "prompt-tuning", "layers": 2, "slots": 4, "batch": 8, "padded_to": 64}
    shape |= {"floor": 1.0, "fastest": 1.0, "slowest": 9.0, "peak_bytes": 1e9, "losses": [1.0]}
    shape |= {"gflops": {}, "steps": 5, "seed": 0, "lr": 0.03, "encoder": "mlp"}
    sides = [("peft", "bf16 autocast", 8.0), ("peft", "bfloat16", 6.0), ("ptune", "bfloat16", 2.0)]
    lines = [shape | {"side": s, "format": f, "seconds": seconds} for s, f, seconds in sides]
    table = job.table(lines)
    assert "| ptune | 2.00 | 1.00 .. 9.00 | 2.00 (1.00 s) |  | 3.0 | 1.00 |" in table
    assert "encoder" not in table  # of p-tuning, which was not measured
