r"""Examples in flat arrays: many rows in little memory, and as they are kept on the disk.

    ids       -1 -2  5  6 | -1 -2  7 | -1 -2  5 ...      every sequence behind the one before
    ids_at     0            4          7                 where each begins
    reads      3          | 2        | ...               likewise: which states are read
    layout     0            0          0                 the rest: prompt, branches, decoder
    sequences_at  0                    2 ...             which sequences are of a row; left out
                                                         where each row has one
    record     0                       1 ...             the rest of a row: target, answer, marks
    layouts    [0,2,[]]                                  equal ones are written once
    records    [1,"yes"] [0,"no"]

A row is made an `Example` when it is asked for; a slice is a view. The arrays may lie in memory or
be mapped from a file (`ptune.training.cache`), which is read through once, for its hash; after that
only what is asked for needs to stay in memory.

Knows what an example is; knows no task, no template and no file.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any, overload

import torch
from jaxtyping import Int
from torch import Tensor

from ptune.batch import Branch, TokenSequence
from ptune.tasks.task import Example

# Distinct records that are kept as objects: enough for the labels of a task.
KEPT_RECORDS = 1024


class FlatExamples(Sequence[Example]):
    """A sequence of examples, each made when it is asked for.

    Args:
        tensors: as `tensors` gives them.

    >>> rows = [Example(TokenSequence((-1, 5, 6), reads=(2,), types=(0, 0, 0)), 1, "yes")] * 3
    >>> flat = FlatExamples.of([rows])
    >>> flat[2] == rows[2], len(flat[1:]), flat.tensors["ids"].tolist()
    (True, 2, [-1, 5, 6, -1, 5, 6, -1, 5, 6])
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self._rows = range(len(tensors["record"]))
        self._layout = lru_cache(KEPT_RECORDS)(partial(self._read, "layouts"))
        self._record = lru_cache(KEPT_RECORDS)(partial(self._read, "records"))

    @classmethod
    def of(cls, parts: Iterable[Sequence[Example]]) -> "FlatExamples":
        """Lay examples out, part by part, so that few of them are in memory as objects.

        Raises:
            TypeError: a target or an answer is no number, text, or tuple of them.
        """
        columns: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
        written = _Written()
        for part in parts:
            for name, values in _columns_of(part, written).items():
                columns[name].append(values)
        tensors = {name: torch.cat(several) for name, several in columns.items()}
        for name in ("ids", "types", "reads", "sequences"):
            tensors[f"{name}_at"] = _starts(tensors[f"{name}_at"])
        if not tensors["types"].any() and torch.equal(tensors["types_at"], tensors["ids_at"]):
            del tensors["types"], tensors["types_at"]  # all are of the first segment
        if len(tensors["layout"]) == len(tensors["record"]):
            del tensors["sequences_at"]  # each row is one sequence
        return cls(tensors | written.tensors())

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "FlatExamples": ...
    def __getitem__(self, index: int | slice) -> "Example | FlatExamples":
        if isinstance(index, slice):
            view = copy(self)
            view._rows = self._rows[index]
            return view
        row = self._rows[index]
        target, answer, *marks = self._record(int(self.tensors["record"][row]))
        first, *others = (self._sequence(at) for at in self._sequences_of(row))
        return Example(first, target, answer, int(self.tensors["cut"][row]), tuple(others), *marks)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> list[int]:
        """Tokens of each row, its continuations not counted; no example is made."""
        return self._of_rows(self._by_row(self.tensors["ids_at"].diff())).tolist()

    def rows_cut(self) -> int:
        """How many rows lost tokens; no example is made."""
        return int((self._of_rows(self.tensors["cut"]) > 0).sum())

    def computed(self, *, share: bool) -> Int[Tensor, " rows"]:
        """As `computed_tokens`; no example is made."""
        layouts = range(len(self.tensors["layouts_at"]) - 1)
        rest = (self._read("layouts", at)[1:] for at in layouts)
        each = torch.tensor([_load(*one, share=share) for one in rest])
        times, more = each[self.tensors["layout"].long()].T
        return self._of_rows(self._by_row(self.tensors["ids_at"].diff() * times + more))

    def _by_row(self, numbers: Int[Tensor, " sequences"]) -> Int[Tensor, " all_rows"]:
        """The sum over the sequences of each row."""
        if "sequences_at" not in self.tensors:
            return numbers
        return _starts(numbers)[self.tensors["sequences_at"]].diff()

    def _of_rows(self, numbers: Int[Tensor, " all_rows"]) -> Int[Tensor, " rows"]:
        return numbers[torch.tensor(self._rows, dtype=torch.long)]

    def _sequences_of(self, row: int) -> range:
        if "sequences_at" not in self.tensors:
            return range(row, row + 1)
        return range(*self.tensors["sequences_at"][row : row + 2].tolist())

    def _sequence(self, at: int) -> TokenSequence:
        prompt, shared, branches, *rest = self._layout(int(self.tensors["layout"][at]))
        ids = self._part("ids", at)
        types = self._part("types", at) if "types" in self.tensors else (0,) * len(ids)
        made = tuple(Branch(*branch) for branch in branches)
        other = None
        if rest:
            ((said, reads, own),) = rest
            other = TokenSequence(said, prompt, reads, branches=tuple(Branch(*b) for b in own))
        return TokenSequence(ids, prompt, self._part("reads", at), shared, types, made, other)

    def _part(self, name: str, at: int) -> tuple[int, ...]:
        start, stop = self.tensors[f"{name}_at"][at : at + 2].tolist()
        return tuple(self.tensors[name][start:stop].tolist())

    def _read(self, name: str, index: int) -> Any:
        start, stop = self.tensors[f"{name}_at"][index : index + 2].tolist()
        return _tupled(json.loads(self.tensors[name][start:stop].numpy().tobytes()))


# What there is of every sequence and of every row; "..._at" are lengths until all parts are there.
_COLUMNS = {
    "ids": torch.int32,
    "ids_at": torch.int64,
    "types": torch.uint8,
    "types_at": torch.int64,
    "reads": torch.int32,
    "reads_at": torch.int64,
    "layout": torch.int32,
    "sequences_at": torch.int64,
    "cut": torch.int32,
    "record": torch.int32,
}


class _Written:
    """Layouts and records, each written once, in the order in which they were met."""

    def __init__(self) -> None:
        self._texts: dict[str, list[bytes]] = {"layouts": [], "records": []}
        self._known: dict[Any, int] = {}

    def layout(self, sequence: TokenSequence) -> int:
        """The number of what there is of a sequence beside its numbers."""
        key = (sequence.prompt, sequence.shared, sequence.branches, sequence.decoder)
        decoder = sequence.decoder
        rest: tuple[Any, ...] = (sequence.prompt, sequence.shared, _branches_of(sequence))
        if decoder is not None:
            rest = (*rest, (decoder.ids, decoder.reads, _branches_of(decoder)))
        return self._index("layouts", key, rest)

    def record(self, example: Example) -> int:
        """The number of an example's target and answer, and its marks where it has some."""
        marked = example.group is not None or example.holds is not None
        marks = (example.group, example.holds) if marked else ()
        value = (example.target, example.answer, *marks)
        # 1 == 1.0, which is another target
        return self._index("records", (repr(example.target), *value[1:]), value)

    def tensors(self) -> dict[str, Tensor]:
        """All that was written, as bytes, and where each text begins."""
        made = {}
        for name, texts in self._texts.items():
            made[name] = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)
            made[f"{name}_at"] = _starts(torch.tensor([len(text) for text in texts]))
        return made

    def _index(self, name: str, key: Any, value: tuple[Any, ...]) -> int:
        if (name, key) not in self._known:
            texts = self._texts[name]
            self._known[name, key] = len(texts)
            text = json.dumps(value, separators=(",", ":")).encode()
            if name == "records" and _tupled(json.loads(text)) != value:
                target, answer, *_ = value
                raise TypeError(f"{target!r} or {answer!r} cannot be kept in a file.")
            texts.append(text)
        return self._known[name, key]


def _branches_of(sequence: TokenSequence) -> list[tuple[tuple[int, ...], ...]]:
    return [(branch.ids, branch.reads) for branch in sequence.branches]


def _columns_of(part: Sequence[Example], written: _Written) -> dict[str, Tensor]:
    columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
    for example in part:
        for sequence in example.sequences:
            for name, values in (
                ("ids", sequence.ids),
                ("types", sequence.types),
                ("reads", sequence.reads),
            ):
                columns[name] += values
                columns[f"{name}_at"].append(len(values))
            columns["layout"].append(written.layout(sequence))
        columns["sequences_at"].append(len(example.sequences))
        columns["cut"].append(example.cut)
        columns["record"].append(written.record(example))
    return {name: torch.tensor(columns[name], dtype=dtype) for name, dtype in _COLUMNS.items()}


def _tupled(value: Any) -> Any:
    """JSON has lists where examples have tuples."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _starts(lengths: Int[Tensor, " parts"]) -> Int[Tensor, " parts_and_one"]:
    return torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Tokens of each row, in all of its sequences, continuations and decoders not counted."""
    if isinstance(examples, FlatExamples):
        return examples.lengths()
    return [sum(len(one.ids) for one in example.sequences) for example in examples]


def rows_cut(examples: Sequence[Example]) -> int:
    """How many rows lost tokens."""
    if isinstance(examples, FlatExamples):
        return examples.rows_cut()
    return sum(example.cut > 0 for example in examples)


def computed_tokens(examples: Sequence[Example], *, share: bool) -> Int[Tensor, " rows"]:
    """Tokens that the backbone computes for each row, its continuations included.

    Args:
        share: a batch computes the equal head of its rows once, so it is not counted here, and
            continuations stand on their row; else each repeats it.
    """
    if isinstance(examples, FlatExamples):
        return examples.computed(share=share)
    return torch.tensor([_computed(e, share) for e in examples], dtype=torch.long)


def _computed(example: Example, share: bool) -> int:
    loads = []
    for one in example.sequences:
        other = one.decoder
        decoder = () if other is None else (other.ids, other.reads, _branches_of(other))
        loads.append((len(one.ids), *_load(one.shared, _branches_of(one), decoder, share=share)))
    return sum(length * times + more for length, times, more in loads)


def _load(
    shared: int, branches: Sequence[Any], decoder: Sequence[Any] = (), *, share: bool
) -> tuple[int, int]:
    """How often a sequence is computed, and how many tokens beside it."""
    own = sum(len(ids) for ids, _ in branches)
    if decoder:  # whose branches stand on it, as nothing of an encoder does
        said, _, others = decoder
        own += len(said) + sum(len(ids) for ids, _ in others)
    return (1, own - shared) if share else (1 + len(branches), own)
