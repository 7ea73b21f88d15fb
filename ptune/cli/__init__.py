"""The command line: one function a verb; each imports what it needs when it is called.

    app.py      the application, options that several verbs have
    making.py   demo, train, share, bench, presets, settings
    peers.py    import, export
    checking.py doctor
    using.py    evaluate, predict, inspect, push; written.py is how predictions are written
    probing.py  probe, vocabulary; probed.py is its table

Bad input ends in one sentence on standard error and exit status 1; wrong usage in status 2.
"""

import sys
from typing import Annotated

import typer

from ptune.cli import checking as checking

# The verbs stand in the help in this order.
from ptune.cli import making as making
from ptune.cli import peers as peers
from ptune.cli import probing as probing
from ptune.cli import using as using
from ptune.cli.app import app as app
from ptune.errors import PtuneError

# Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130


def main() -> None:
    """Run the command line; an error of the user's is a sentence, never a traceback."""
    try:
        app(prog_name="ptune")
    except PtuneError as error:
        typer.echo(f"ptune: {error}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer makes this of Ctrl-C
            typer.echo("ptune: stopped.", err=True)
        raise


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from ptune import __version__

        typer.echo(f"ptune {__version__}")
        raise typer.Exit
