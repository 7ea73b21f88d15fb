r"""CoNLL files to rows: one word a line, a blank line between sentences.

    -DOCSTART- -X- O O            skipped, and ends a sentence
                                  tokens                        label
    EU      NNP  B-NP  B-ORG      ["EU", "rejects", ...]        ["B-ORG", "O", ...]
    rejects VBZ  B-VP  O
    ...

The first column is the word, the last one its tag; the others are ignored. Columns are separated
by one tab, or by any spaces in a line that has no tab. A line of white space is a blank line. A
file of words alone, to be predicted, has rows without tags. In a file with tags, a line of another
number of columns than the first has None for its tag, which `ptune.data.tags` refuses.
"""

from collections.abc import Iterator

from ptune.data.rows import Row, Rows
from ptune.errors import DataError
from ptune.values import WORDS_FIELD

TAGS_COLUMN = "label"
FORM = (
    "Each line needs a word first and its tag last, with one tab or spaces between columns and an "
    "empty line between sentences."
)
_DOCUMENT = "-DOCSTART-"

_Line = tuple[int, list[str]]


def read_conll(text: str, source: str) -> Rows:
    """Read the text of a CoNLL file.

    Raises:
        DataError: a line has no word or no tag, or more columns than a file of words; names it.
    """
    sentences = list(_sentences(text))
    if not sentences:
        raise DataError(
            f"{source}: there is no sentence. Write one word and its tag on each line, and an "
            "empty line after each sentence."
        )
    _check_columns([line for sentence in sentences for line in sentence], source)
    columns = len(sentences[0][0][1])
    numbered = ((sentence[0][0], _row(sentence, columns)) for sentence in sentences)
    return Rows.of(source, "line", numbered, stretched=True)


def _sentences(text: str) -> Iterator[list[_Line]]:
    found: list[_Line] = []
    for number, line in enumerate(text.split("\n"), start=1):
        # No other white space: some tokenizers have words of it.
        content = line.strip(" \t\r")
        if content and not content.startswith(_DOCUMENT):
            found.append((number, _columns(line)))
        elif found:
            yield found
            found = []
    if found:
        yield found


def _columns(line: str) -> list[str]:
    line = line.rstrip("\r\n ")
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def _check_columns(lines: list[_Line], source: str) -> None:
    columns = len(lines[0][1])
    for number, found in lines:
        if columns == 1 and len(found) > 1:
            raise DataError(
                f"{source}, line {number}: {len(found)} columns ({' | '.join(found)}), where the "
                f"lines before have 1, a word alone. {FORM}"
            )
        if not found[0] or not found[-1]:
            missing = "word" if not found[0] else "tag"
            raise DataError(f"{source}, line {number}: there is no {missing}. Write one.")


def _row(sentence: list[_Line], columns: int) -> Row:
    words = [found[0] for _, found in sentence]
    if columns == 1:
        return {WORDS_FIELD: words}
    tags = [found[-1] if len(found) == columns else None for _, found in sentence]
    return {WORDS_FIELD: words, TAGS_COLUMN: tags}
