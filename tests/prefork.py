"""Python that has torch and transformers in memory: what takes seconds at every start, done once.

    with prefork(folder, env) as python:      # a program: [python, "-m", "ptune", "--help"]
        subprocess.run([python, "-c", "print(1)"])

A server imports the two, and forks a child for each command, with the command's arguments, folder,
environment and open files. The child is a process of its own: what it imports, changes and prints
is not seen by others, and Ctrl-C reaches it. Of ptune nothing is imported beforehand.

Does not know: what environment variables say to torch and transformers while these are imported
(the server's hold), and options of Python itself. Needs Linux.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 300

# The program: it hands over what it was given, passes Ctrl-C on, and ends as the child ends.
CLIENT = """\
import json, os, select, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # a Ctrl-C waits until there is a child
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = [sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [b"f"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\\n")
    answers = server.makefile("rb", buffering=0)
    child = int(answers.readline())
    signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    while not select.select([server], [], [], 0.2)[0]:
        pass  # a Ctrl-C that comes right before a wait is heard of behind it
    os._exit(int(answers.readline() or 1))
"""


@contextmanager
def prefork(folder: Path, env: Mapping[str, str]) -> Iterator[Path]:
    """Start the server; returns the program that its children run as."""
    address = folder / "python.socket"
    client, program = folder / "client.py", folder / "python"
    client.write_text(CLIENT.format(address=str(address)), encoding="utf-8")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -ISE "{client}" "$@"\n', "utf-8")
    program.chmod(0o755)
    command = [sys.executable, __file__, str(address)]
    with subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + WAIT_S
            while not address.exists():
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server is not ready"
                time.sleep(0.05)
            yield program
        finally:
            server.kill()


def serve(address: str) -> None:
    """Fork a child for each command that comes in."""
    import torch  # noqa: F401
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for children
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address + ".new")
        listening.listen()
        Path(address + ".new").rename(address)
        while True:
            asking, _ = listening.accept()
            with asking:
                if os.fork() == 0:
                    listening.close()
                    answer(asking)


def answer(asking: socket.socket) -> None:
    """Run one command in a child and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(asking, 1, 3)
    (arguments, folder, env) = json.loads(asking.makefile().readline())
    child = os.fork()
    if child == 0:
        asking.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        become(arguments)
    for file in files:
        os.close(file)
    asking.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    asking.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
    os._exit(0)


def become(arguments: list[str]) -> None:
    """Run what Python would run of these arguments, and end the process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = os.fdopen(0, closefd=False, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", buffering=1)
    code = 0
    try:
        run(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    if not sys.stdout.closed:
        sys.stdout.flush()
    os._exit(code)


def run(arguments: list[str]) -> None:
    """`-m module`, `-c code`, a file, or code from standard input."""
    kind, *others = arguments or ["-"]
    sys.path[0] = ""
    if kind == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
        return
    if kind in ("-c", "-"):
        code = others.pop(0) if kind == "-c" else sys.stdin.read()
        sys.argv = [kind, *others]
        main = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(code, "<string>", "exec"), main)
        return
    sys.argv = [kind, *others]
    sys.path[0] = str(Path(kind).resolve().parent)
    runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
