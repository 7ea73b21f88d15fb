import json

import pytest
import tiny

from ptune.errors import DataError
from ptune.probing.words import read_words, shared_words


def test_a_list_is_one_word_a_line_or_a_json_list(tmp_path):
    (tmp_path / "w.txt").write_text("one\n\n two \none\n", encoding="utf-8")
    (tmp_path / "w.json").write_text(json.dumps(["one", "two"]), encoding="utf-8")
    assert read_words(tmp_path / "w.txt") == read_words(tmp_path / "w.json") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("w.txt", "\n \n", "the list holds no word"),
        ("w.json", '{"one": 1}', r"is JSON, but not a list of texts\. Write the words as"),
        ("w.json", "[one", "not JSON"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_words(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_words(tmp_path / "missing.txt")


def test_shared_words_are_one_token_in_every_tokenizer():
    one, other = tiny.tokenizer(), tiny.tokenizer()
    assert {"yes", "seven", "film"} <= set(shared_words([one, other]))
    assert not {".", "?", "<pad>", "</s>"} & set(shared_words([one]))
    assert shared_words([one]) == sorted(shared_words([one]))
