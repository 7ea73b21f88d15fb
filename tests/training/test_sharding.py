"""A backbone sharded over two processes (gloo), as `accelerate launch --use_fsdp` starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from tiny_runs import DEEP, HEAD, ROWS, log_of, tensors_of, train

from ptune import sharding
from ptune.api import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.generation import generate

TESTS = Path(__file__).parents[1]
# A pass for nearly every row, and rows of several lengths: the processes have different numbers.
UNEVEN = {"batch_size": 16, "tokens_per_batch": 12, "accumulation": 5, "epochs": 1}
RUNS = {
    "llama-deep": DEEP | UNEVEN | {"gradient_checkpointing": True, "loss": "vocabulary"},
    "bloom-head": HEAD | {"quantization": "int8", "epochs": 1},
}

SCRIPT = """
import json, os, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}, {tests!r} + "/training"]
import torch
torch.set_num_threads(1)
from ptune.training import job
from test_sharding import RUNS, held, texts
from tiny_runs import ROWS, train

place, rank = Path({output!r}), int(os.environ["RANK"])
loaded, load = [], job.load_backbone
job.load_backbone = lambda recipe: loaded.append(load(recipe)) or loaded[-1]
told = {{}}
for name, settings in RUNS.items():
    train(str(place / name.split("-")[0]), settings, output=place / name, test=ROWS[:3])
    told[name] = [loaded[-1].sharded, *held(loaded[-1])]
told["texts"] = texts(loaded[0], tokens=2 + 4 * rank)
(place / f"rank{{rank}}.json").write_text(json.dumps(told))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def held(backbone):
    """Bytes of the layers' weights in this process, and how many they are."""
    weights = [w for layer in backbone._layers for w in layer.parameters()]
    own = [w.to_local() if hasattr(w, "to_local") else w for w in weights]
    return [sum(w.nbytes for w in several) for several in (own, weights)]


def texts(backbone, tokens):
    rows = [TokenSequence((5, 6, 7)), TokenSequence((12,))]
    return generate(backbone, [PromptTensors()], rows, max_new_tokens=tokens)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    for name in ("llama", "bloom"):
        tiny.model(name).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def launched(output):
    script = output / "script.py"
    script.write_text(SCRIPT.format(tests=str(TESTS), root=str(TESTS.parent), output=str(output)))
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp"),
        *("--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        str(script),
    ]
    done = subprocess.run(  # processes that wait for each other would wait for ever
        command, capture_output=True, text=True, check=False, cwd=output, timeout=300
    )
    assert done.returncode == 0, done.stderr[:9000]
    assert "UserWarning" not in done.stderr, done.stderr[:9000]
    return [json.loads((output / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_with_half_of_each_layer_train_the_prompt_of_one(launched, output, name):
    alone = output / "alone" / name
    result = train(str(output / name.split("-")[0]), RUNS[name], output=alone, test=ROWS[:3])
    ours, theirs = tensors_of(output / name / "prompt"), tensors_of(alone / "prompt")
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5)
    document = json.loads((output / name / "prompt" / "prompt.json").read_text())["document"]
    for split, scores in result.scores.items():
        assert document["scores"][split] == pytest.approx(scores, rel=1e-5, abs=1e-5)
    for mine, other in zip(log_of(output / name), log_of(alone), strict=True):
        assert mine.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_each_process_holds_its_share_alone(launched, name):
    shares, wholes = zip(*(told[name][1:] for told in launched), strict=True)
    assert all(told[name][0] for told in launched)
    assert wholes[0] == wholes[1] == sum(shares)
    assert max(shares) < 0.6 * wholes[0]


def test_processes_that_generate_different_lengths_wait_for_each_other(launched, output):
    alone = Backbone.load(output / "llama")
    assert [told["texts"] for told in launched] == [texts(alone, 2), texts(alone, 6)]


@pytest.mark.parametrize(
    ("switch", "processes", "asked"),
    [("true", "2", True), ("True", "2", True), ("true", "1", False), ("false", "2", False)],
)
def test_sharding_is_asked_for_by_the_launcher_of_several(monkeypatch, switch, processes, asked):
    monkeypatch.setenv(sharding.SWITCH, switch)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert sharding.asked() is asked


def test_a_hidden_variable_comes_back(monkeypatch):
    monkeypatch.setenv("SOMETHING", "else")
    with sharding.hidden("SOMETHING"):
        assert "SOMETHING" not in os.environ
    assert os.environ["SOMETHING"] == "else"
    with sharding.hidden("NOTHING"):
        pass
    assert "NOTHING" not in os.environ
