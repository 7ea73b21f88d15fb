"""Several processes on one machine: gloo, a tiny model, a script that the test writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from tiny_runs import DEEP, HEAD, ROWS, TABLE, log_of, tensors_of, train

TESTS = Path(__file__).parents[1]
# 10 rows, 8 to train on: steps of 3 rows leave one process with fewer than the other.
UNEVEN = TABLE | {"batch_size": 1, "accumulation": 3, "epochs": 2, "evaluate_every": 2}
# Its frozen trunk is remembered: each process keeps the rows that it meets.
UPPER = DEEP | {"layers": "upper:1"}
BY_TOKENS = {k: v for k, v in TABLE.items() if k != "batch_size"} | {"tokens_per_batch": 24}
RUNS = {"even": TABLE, "uneven": UNEVEN, "head": HEAD, "upper": UPPER, "tokens": BY_TOKENS}

SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import torch
torch.set_num_threads(1)
import tiny
from ptune.errors import TrainingError
from test_processes import RUNS
from tiny_runs import ROWS, TABLE, Watcher, train

class Interrupted(Watcher):
    def on_step(self, step, plan, loss):  # the first process alone is watched, and asked to stop
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

Path({output!r}, "rank" + os.environ["RANK"]).write_text(os.environ["WORLD_SIZE"])
backbone = tiny.backbone("llama")
for name, settings in RUNS.items():
    train(backbone, settings, output={output!r} + "/" + name, test=ROWS[:3])
try:
    train(backbone, TABLE, output={output!r} + "/stopped", watcher=Interrupted())
except TrainingError as error:
    print(error)
train(backbone, TABLE, output={output!r} + "/stopped", resume=True)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    output = tmp_path_factory.mktemp("processes")
    script = output / "script.py"
    script.write_text(
        SCRIPT.format(tests=f"{TESTS}/training", root=str(TESTS), output=str(output)).replace(
            "sys.path[:0]", f"sys.path.insert(0, {str(TESTS.parent)!r}); sys.path[:0]"
        )
    )
    command = [
        # With --cpu it would start one process, or want MPI: ptune asks for the CPU by itself.
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", str(script)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    output = tmp_path_factory.mktemp("alone")
    backbone = tiny.backbone("llama")
    return {
        name: (train(backbone, settings, output=output / name, test=ROWS[:3]), output / name)
        for name, settings in RUNS.items()
    }


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_the_prompt_of_one(launched, alone, name):
    result, single = alone[name]
    both = launched[0] / name
    for key, value in tensors_of(single / "prompt").items():
        torch.testing.assert_close(tensors_of(both / "prompt")[key], value, rtol=1e-5, atol=1e-5)
    document = json.loads((both / "prompt" / "prompt.json").read_text())["document"]
    for split, scores in result.scores.items():
        assert document["scores"][split] == pytest.approx(scores, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_write_the_log_of_one(launched, alone, name):
    both, single = log_of(launched[0] / name), log_of(alone[name][1])
    assert [line["step"] for line in both] == [line["step"] for line in single]
    for mine, other in zip(both, single, strict=True):
        assert mine.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=1e-5)
        assert mine.get("scores", {}) == pytest.approx(other.get("scores", {}), rel=1e-5, abs=1e-5)


def test_there_are_two_processes(launched):
    assert [(launched[0] / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]


def test_one_process_that_is_asked_to_stop_stops_all_and_all_go_on(launched):
    output, said = launched
    assert said.count("Stopped at step 4 of 6.") == 2
    expected = tensors_of(output / "even" / "prompt")
    got = tensors_of(output / "stopped" / "prompt")
    assert torch.equal(got["vectors"], expected["vectors"])
