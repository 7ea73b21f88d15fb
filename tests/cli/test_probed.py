"""What `ptune probe` says of relations that could not be probed."""

from ptune.cli.probed import probed_lines


def failed(message, *names):
    return {name: {"error": f"{name}: {message}"} for name in names}


def test_a_failure_is_told_once_with_its_relations_and_methods():
    late = failed("it diverged.", "P1", "P2")
    found = {"manual": failed("no facts.", "P3"), "p-tuning": late, "prompt-tuning": late}
    assert probed_lines(found)[3:] == [
        "P3 (manual): no facts.",
        "P1, P2 (p-tuning, prompt-tuning): it diverged.",
    ]


def test_methods_that_fail_on_different_relations_have_a_line_each():
    found = {"manual": failed("no.", "P1"), "p-tuning": failed("no.", "P1", "P2")}
    assert probed_lines(found)[3:] == ["P1 (manual): no.", "P1, P2 (p-tuning): no."]


def test_many_relations_that_fail_alike_are_counted():
    names = [f"P{number}" for number in range(9)]
    (line,) = probed_lines({"manual": failed("no.", *names)})[3:]
    assert line == "P0, P1, P2, P3, P4 and 4 more (manual): no."


def test_a_failure_that_does_not_begin_with_its_relation_names_it():
    found = {"manual": {name: {"error": "facts.jsonl: broken."} for name in ("P1", "P2")}}
    assert probed_lines(found)[3:] == ["P1, P2 (manual): facts.jsonl: broken."]
