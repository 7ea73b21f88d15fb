r"""Lists of words: what an object is ranked among, and which objects are one token.

    words.txt       one word a line           29k-vocab.json      a list of words
    shared_words([bert, gpt2])                those that are one token in each

P-tuning restricts the vocabulary in evaluation alone (its `shared` list has 29k words): the loss is
over all tokens, a rank counts the tokens of the list. With one list, models are compared on the
same facts.

Knows tokenizers as things that are called; no model, no tensor.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ptune.errors import DataError
from ptune.layout import Layout
from ptune.spelling import Ids, Speller, Tokenizer


class Spelling:
    """How a word is written where the answer stands.

    Args:
        tokenizer: of the backbone.
        layout: a bound template, whose `{label}` or `{mask}` stands where the word goes, so that a
            word is spelled as the tasks spell it; None for no template in particular, where a word
            stands behind a space (as P-tuning's code has it for every tokenizer that tells the two
            apart).
    """

    def __init__(self, tokenizer: Tokenizer, layout: Layout | None = None) -> None:
        self._tokenizer = tokenizer
        self._layout = layout
        self._speller = Speller(tokenizer)
        self._unknown = {tokenizer.unk_token_id} - {None}

    def tokens(self, words: Sequence[str]) -> list[int | None]:
        """The one token of each word; None where it is several, none, or unknown."""
        spelled = self._spell(words) if words else []
        return [self._one(ids) for ids in spelled]

    def _spell(self, words: Sequence[str]) -> list[Ids]:
        if self._layout is not None:
            return self._layout.answer_ids(words)
        return self._speller.spell([f" {word}" for word in words], opens=False, plain=True)

    def _one(self, ids: Ids) -> int | None:
        known = len(ids) == 1 and ids[0] not in self._unknown
        return ids[0] if known else None


def read_words(path: str | Path) -> list[str]:
    """The words of a list: a JSON list of texts, or one word a line.

    Raises:
        DataError: it cannot be read, or holds no word.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the list of words cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from None
    words = _of_json(path, text) if path.suffix.lower() == ".json" else text.split("\n")
    found = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not found:
        raise DataError(f"{path}: the list holds no word. Write one word a line.")
    return found


def _of_json(path: Path, text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}. Write a list of words.") from None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise DataError(
            f'{path}: is JSON, but not a list of texts. Write the words as ["one", "two"].'
        )
    return value


def shared_words(tokenizers: Sequence[Tokenizer]) -> list[str]:
    """The words that are one token in every tokenizer, sorted.

    A word has a letter or a digit, and stands behind a space.
    """
    words = sorted({word for tokenizer in tokenizers for word in _words_of(tokenizer)})
    for tokenizer in tokenizers:
        tokens = Spelling(tokenizer).tokens(words)
        words = [word for word, token in zip(words, tokens, strict=True) if token is not None]
    return words


def _words_of(tokenizer: Tokenizer) -> Iterable[str]:
    """Texts of single tokens that may be words."""
    special = set(tokenizer.all_special_ids)
    ids = [[token] for token in range(len(tokenizer)) if token not in special]
    for text in tokenizer.batch_decode(ids):
        word = text.strip()
        if any(letter.isalnum() for letter in word) and not any(map(str.isspace, word)):
            yield word
