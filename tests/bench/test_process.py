import re
import sys

import pytest

from ptune.bench.process import Process, in_turn
from ptune.errors import PtuneError

SIDE = """
import itertools
from ptune.bench.process import serve
print("a library says something")
count = itertools.count()
def step():
    print("and again, without an end of line", flush=True)
    return {"seconds": next(count)}
serve({"trained": 3}, {"step": step})
"""


def process(code):
    return Process([sys.executable, "-c", code])


def test_answers_are_found_among_what_libraries_print():
    one, two = process(SIDE), process(SIDE)
    assert one.facts == {"trained": 3}
    assert one.ask("step") == {"seconds": 0}
    heard = []
    answers = in_turn([one, two], 2, tell=lambda number, last: heard.append((number, last)))
    assert answers == [[{"seconds": 1}, {"seconds": 2}], [{"seconds": 0}, {"seconds": 1}]]
    assert heard == [
        (0, [{"seconds": 1}, {"seconds": 0}]),
        (1, [{"seconds": 2}, {"seconds": 1}]),
    ]
    one.close()
    two.close()


def test_what_a_side_cannot_do_is_told_in_its_words():
    code = (
        "from ptune.bench.process import telling_errors\n"
        "from ptune.errors import DataError\n"
        "with telling_errors():\n    raise DataError('rows.csv: there are no rows.')\n"
    )
    with pytest.raises(PtuneError, match=re.escape("rows.csv: there are no rows.")):
        process(code)


def test_a_side_that_ends_early_is_no_silence():
    with pytest.raises(
        PtuneError, match=r"^A measured process ended early; what it said stands above\."
    ):
        process("import sys; sys.exit(3)")
