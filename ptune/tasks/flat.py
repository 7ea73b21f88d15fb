r"""Examples in flat arrays: many rows in little memory, and as they are kept on the disk.

    ids       -1 -2  5  6 | -1 -2  7 | -1 -2  5 ...      every row behind the one before
    ids_at     0            4          7                 where each begins
    reads      3          | 2        | ...               likewise: which states are read
    record     0            1          0                 the rest: target, answer, branches, ...
    records    [0,2,[],1,"yes"] [0,2,[],0,"no"]          equal ones are written once

A row is made an `Example` when it is asked for; a slice is a view. The arrays may lie in memory or
be mapped from a file (`ptune.training.cache`): a row that is never asked for is then never read.

Knows what an example is; knows no task, no template and no file.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import lru_cache
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
        self._record = lru_cache(KEPT_RECORDS)(self._read_record)

    @classmethod
    def of(cls, parts: Iterable[Sequence[Example]]) -> "FlatExamples":
        """Lay examples out, part by part, so that few of them are in memory as objects.

        Raises:
            TypeError: a target or an answer is no number, text, or tuple of them.
        """
        columns: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
        records = _Records()
        for part in parts:
            for name, values in _columns_of(part, records).items():
                columns[name].append(values)
        tensors = {name: torch.cat(several) for name, several in columns.items()}
        for name in ("ids", "types", "reads"):
            tensors[f"{name}_at"] = _starts(tensors[f"{name}_at"])
        if not tensors["types"].any() and torch.equal(tensors["types_at"], tensors["ids_at"]):
            del tensors["types"], tensors["types_at"]  # all are of the first segment
        written = records.written
        tensors["records"] = torch.frombuffer(bytearray(b"".join(written)), dtype=torch.uint8)
        tensors["records_at"] = _starts(torch.tensor([len(one) for one in written]))
        return cls(tensors)

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
        prompt, shared, branches, target, answer = self._record(int(self.tensors["record"][row]))
        ids = self._part("ids", row)
        types = self._part("types", row) if "types" in self.tensors else (0,) * len(ids)
        reads = self._part("reads", row)
        sequence = TokenSequence(ids, prompt, reads, shared, types, branches)
        return Example(sequence, target, answer, int(self.tensors["cut"][row]))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> list[int]:
        """Tokens of each row, its continuations not counted; no example is made."""
        return self._of_rows(self.tensors["ids_at"].diff()).tolist()

    def rows_cut(self) -> int:
        """How many rows lost tokens; no example is made."""
        return int((self._of_rows(self.tensors["cut"]) > 0).sum())

    def loads(self, *, share: bool) -> Int[Tensor, "two rows"]:
        """How often each row is computed, and how many tokens beside it; no example is made."""
        records = range(len(self.tensors["records_at"]) - 1)
        each = [_load(*self._read_record(record)[1:3], share) for record in records]
        return self._of_rows(torch.tensor(each)[self.tensors["record"].long()]).T

    def _of_rows(self, numbers: Int[Tensor, "all ..."]) -> Int[Tensor, "rows ..."]:
        return numbers[torch.tensor(self._rows, dtype=torch.long)]

    def _part(self, name: str, row: int) -> tuple[int, ...]:
        start, stop = self.tensors[f"{name}_at"][row : row + 2].tolist()
        return tuple(self.tensors[name][start:stop].tolist())

    def _read_record(self, index: int) -> tuple[int, int, tuple[Branch, ...], Any, Any]:
        start, stop = self.tensors["records_at"][index : index + 2].tolist()
        text = self.tensors["records"][start:stop].numpy().tobytes()
        prompt, shared, branches, target, answer = json.loads(text)
        made = tuple(Branch(tuple(ids), tuple(reads)) for ids, reads in branches)
        return prompt, shared, made, _tupled(target), _tupled(answer)


# What there is of every row; "..._at" are lengths until all parts are there.
_COLUMNS = {
    "ids": torch.int32,
    "ids_at": torch.int64,
    "types": torch.uint8,
    "types_at": torch.int64,
    "reads": torch.int32,
    "reads_at": torch.int64,
    "cut": torch.int32,
    "record": torch.int32,
}


class _Records:
    """Records, each written once, in the order in which they were met."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self._known: dict[Any, int] = {}

    def index(self, example: Example) -> int:
        """The number of an example's record."""
        sequence, target = example.sequence, example.target
        of_rows = (sequence.prompt, sequence.shared, sequence.branches)
        key = (of_rows, type(target), target, example.answer)  # 1 == 1.0, which is another target
        if key not in self._known:
            self._known[key] = len(self.written)
            self.written.append(_record_of(example))
        return self._known[key]


def _record_of(example: Example) -> bytes:
    sequence = example.sequence
    branches = [(branch.ids, branch.reads) for branch in sequence.branches]
    record = (sequence.prompt, sequence.shared, branches, example.target, example.answer)
    text = json.dumps(record, separators=(",", ":")).encode()
    back = tuple(map(_tupled, json.loads(text)[3:]))
    if back != (example.target, example.answer):
        raise TypeError(f"{example.target!r} or {example.answer!r} cannot be kept in a file.")
    return text


def _columns_of(part: Sequence[Example], records: _Records) -> dict[str, Tensor]:
    columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
    for example in part:
        sequence = example.sequence
        for name, values in (
            ("ids", sequence.ids),
            ("types", sequence.types),
            ("reads", sequence.reads),
        ):
            columns[name] += values
            columns[f"{name}_at"].append(len(values))
        columns["cut"].append(example.cut)
        columns["record"].append(records.index(example))
    return {name: torch.tensor(columns[name], dtype=dtype) for name, dtype in _COLUMNS.items()}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _starts(lengths: Int[Tensor, " parts"]) -> Int[Tensor, " parts_and_one"]:
    return torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Tokens of each row, its continuations not counted."""
    if isinstance(examples, FlatExamples):
        return examples.lengths()
    return [len(example.sequence.ids) for example in examples]


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
        lines, more = examples.loads(share=share)
    else:
        loads = [_load(e.sequence.shared, e.sequence.branches, share) for e in examples]
        lines, more = torch.tensor(loads, dtype=torch.long).T
    return torch.tensor(lengths_of(examples)) * lines + more


def _load(shared: int, branches: Sequence[Branch], share: bool) -> tuple[int, int]:
    """How often a row is computed, and how many tokens beside it."""
    own = sum(len(branch.ids) for branch in branches)
    return (1, own - shared) if share else (1 + len(branches), own)
