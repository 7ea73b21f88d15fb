"""A command runs in the server's child as it would run in a Python of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from prefork import prefork

OWN = sys.executable


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    with prefork(tmp_path_factory.mktemp("server"), os.environ) as program:
        yield str(program)


def done(program, arguments, **options):
    return subprocess.run([program, *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["-c", "import sys, os; print(sys.argv, os.getcwd(), os.environ['SAID'])", "a b"], None),
        (["-c", "import sys; print('wrong', file=sys.stderr); sys.exit(3)"], None),
        (["-c", "import sys; sys.exit('a sentence')"], None),
        (["-c", "def f(): return 1\nprint([f() for _ in 'ab'])"], None),
        (["-"], "import sys; print(sys.argv)"),
        (["-m", "json.tool", "--compact"], '{"a": 1}'),
        (["told.py", "x"], None),
        (["-c", "import atexit; atexit.register(print, 'at the end')"], None),
    ],
)
def test_a_command_says_and_answers_what_it_does_in_a_python_of_its_own(
    python, tmp_path, arguments, stdin
):
    (tmp_path / "beside.py").write_text("NAME = __name__")
    (tmp_path / "told.py").write_text("import sys, beside\nprint(sys.argv, beside.NAME, __name__)")
    options = {"cwd": tmp_path, "input": stdin, "env": os.environ | {"SAID": "yes"}}
    found, expected = (done(program, arguments, **options) for program in (python, OWN))
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
    assert found.stderr == expected.stderr


def test_an_error_is_a_traceback_and_status_1(python):
    found = done(python, ["-c", "1 / 0"])
    assert found.returncode == 1
    assert "ZeroDivisionError: division by zero" in found.stderr


def test_torch_is_there_before_the_command_and_ptune_is_not(python):
    told = done(python, ["-c", "import sys; print('torch' in sys.modules, 'ptune' in sys.modules)"])
    assert told.stdout == "True False\n"


def test_ctrl_c_reaches_the_command(python):
    # Short naps: Python hears of a signal that comes right before a sleep only behind it.
    code = (
        "import time\ntry:\n  print('ready', flush=True)\n  for _ in range(600): time.sleep(0.1)\n"
        "except KeyboardInterrupt:\n  raise SystemExit(7)"
    )
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 7
    assert time.monotonic() - start < 30
