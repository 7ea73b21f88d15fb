"""Verbalizers: which words answer for which label.

    label          words
    complaint      complaint, angry
    no complaint   fine

The model says words; a score is counted in labels. A word may have several tokens; how it is
spelled is for `ptune.layout` to say (`Layout.label_ids`).

Knows strings only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptune.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """Labels and the words that answer for them, in a fixed order.

    >>> verbalizer = Verbalizer.from_labels(["pos", "neg"], {"pos": ["great", "good"]})
    >>> verbalizer.words("pos"), verbalizer.words("neg")
    (('great', 'good'), ('neg',))
    >>> verbalizer.label("good")
    'pos'
    """

    answers: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def from_labels(
        cls,
        labels: Sequence[str],
        words: Mapping[str, str | list[str]] | None = None,
    ) -> "Verbalizer":
        """Give every label its words; a label without any answers for itself.

        Args:
            labels: each once; their order is kept.
            words: one word or several for some of the labels.

        Raises:
            ConfigError: a label or a word stands twice, is empty, or is unknown.
        """
        words = words or {}
        if not labels:
            raise ConfigError("verbalizer: there are no labels. Give at least one.")
        for label in words:
            if label not in labels:
                raise ConfigError(_unknown("label", label, labels))
        answers = []
        for label in labels:
            found = words.get(label, label)
            several = [found] if isinstance(found, str) else found
            answers.append((label, tuple(word.strip() for word in several)))
        return cls(tuple(answers))

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        seen: set[str] = set()
        for label, words in self.answers:
            if label in seen:
                raise ConfigError(f'verbalizer: label "{label}" stands twice. Keep one.')
            seen.add(label)
            if not words or "" in words:
                raise ConfigError(f'verbalizer: label "{label}" has an empty answer. Give a word.')
            for word in words:
                if word in owner:
                    raise ConfigError(_twice(word, owner[word], label))
                owner[word] = label

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in order."""
        return tuple(label for label, _ in self.answers)

    @property
    def all_words(self) -> tuple[str, ...]:
        """All words, label by label."""
        return tuple(word for _, words in self.answers for word in words)

    def words(self, label: str) -> tuple[str, ...]:
        """Return the words of a label, the first of which is the one that is trained.

        Raises:
            ConfigError: the label is unknown.
        """
        for known, words in self.answers:
            if known == label:
                return words
        raise ConfigError(_unknown("label", label, self.labels))

    def label(self, word: str) -> str:
        """Return the label for which a word answers. White space around the word does not count.

        Raises:
            ConfigError: no label has this word.
        """
        for label, words in self.answers:
            if word.strip() in words:
                return label
        raise ConfigError(_unknown("word", word.strip(), self.all_words))

    def to_dict(self) -> dict[str, list[str]]:
        """Return what `from_dict` reads, fit for JSON.

        >>> Verbalizer.from_labels(["yes", "no"]).to_dict()
        {'yes': ['yes'], 'no': ['no']}
        """
        return {label: list(words) for label, words in self.answers}

    @classmethod
    def from_dict(cls, document: Mapping[str, list[str]]) -> "Verbalizer":
        """Rebuild a verbalizer; the order of the labels is that of the document."""
        return cls.from_labels(list(document), dict(document))


def _twice(word: str, first: str, second: str) -> str:
    if first == second:
        return f'verbalizer: label "{first}" has the word "{word}" twice. Keep one.'
    return (
        f'verbalizer: labels "{first}" and "{second}" have the same word "{word}", '
        "so an answer could not be told apart. Give each its own."
    )


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = did_you_mean(name, list(known))
    return f'verbalizer: unknown {kind} "{name}". Known: {", ".join(known)}.{near}'
