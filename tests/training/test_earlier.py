"""What an earlier run left: what is told of it, and when it can be gone on with."""

import pytest

from ptune.errors import ArtifactError, ConfigError
from ptune.training.earlier import begun, check_places, check_resume, told_earlier


def make(*folders):
    for folder in folders:
        folder.mkdir(parents=True)


def test_nothing_is_told_of_an_empty_folder_and_of_none(tmp_path):
    assert told_earlier(None) == []
    assert told_earlier(tmp_path) == []
    assert told_earlier(tmp_path / "not there", ["topic"]) == []


def test_a_checkpoint_and_a_prompt_are_told(tmp_path):
    make(tmp_path / "checkpoint", tmp_path / "prompt")
    assert told_earlier(tmp_path) == [
        f"{tmp_path}: an earlier run is replaced; resume would have gone on with it.",
        f"{tmp_path}/prompt is of an earlier run, until this one ends.",
    ]


def test_prompts_of_sets_are_told_and_those_of_other_sets_apart(tmp_path):
    make(*(tmp_path / name / "prompt" for name in ("topic", "asks", "mood", "tone")))
    topic, asks, mood, tone = (f"{tmp_path}/{name}" for name in ("topic", "asks", "mood", "tone"))
    assert told_earlier(tmp_path, ["topic", "asks", "new"]) == [
        f"{topic}/prompt, {asks}/prompt are of an earlier run, until this one ends.",
        f"{mood}, {tone} are of an earlier run with other sets, and not written to.",
    ]


def test_a_run_goes_on_where_a_checkpoint_is(tmp_path):
    make(tmp_path / "checkpoint", tmp_path / "seed-1" / "checkpoint")
    assert (begun(tmp_path), begun(tmp_path / "seed-0"), begun(None)) == (True, False, False)
    check_resume(True, tmp_path)
    check_resume(True, tmp_path, [tmp_path / "seed-0", tmp_path / "seed-1"])
    check_resume(False, None)


@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        (None, "{0}/checkpoint: there is no checkpoint to go on from. "),
        (["seed-0"], "{0}: no replica has a checkpoint there to go on from. "),
    ],
)
def test_what_was_not_begun_is_not_gone_on_with(tmp_path, replicas, said):
    folders = None if replicas is None else [tmp_path / name for name in replicas]
    with pytest.raises(ConfigError) as error:
        check_resume(True, tmp_path, folders)
    assert str(error.value) == said.format(tmp_path) + (
        "Name the output folder of the run, or start without --resume (resume=True)."
    )
    with pytest.raises(ConfigError, match="resume needs the output folder of the run to go on"):
        check_resume(True, None, folders)


def test_a_place_that_cannot_take_the_prompt_is_refused_before_the_run(tmp_path):
    make(tmp_path / "prompt")
    check_places(None)
    check_places(tmp_path)
    (tmp_path / "prompt" / "prompt.json").write_text("{}")
    (tmp_path / "prompt" / "README.md").write_text("a card")
    check_places(tmp_path)
    (tmp_path / "prompt" / "answers.jsonl").write_text("{}")
    for folders in ((), ("prompt/..",)):
        with pytest.raises(ArtifactError, match=r"holds other files \(answers\.jsonl\)"):
            check_places(tmp_path, folders)


def test_a_readme_alone_is_not_taken_for_a_prompt(tmp_path):
    make(tmp_path / "prompt")
    (tmp_path / "prompt" / "README.md").write_text("my precious notes")
    with pytest.raises(ArtifactError, match=r"holds other files \(README\.md\)"):
        check_places(tmp_path)
