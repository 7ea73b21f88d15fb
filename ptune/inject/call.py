"""One forward pass, as the hooks and the attention of a backbone see it.

A `Call` is either packed (it has a batch, whose groups say who sees whom) or by rows (as in
`generate`: ordinary padded rows with a cache, each with its prompt). Which of the backbone's sites
is being computed follows from the module and from how often it was called in this pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ptune.batch import Batch, Group, PromptTensors
from ptune.encoders import KeysValues
from ptune.inject.sites import Kind
from ptune.inject.varlen import Runs


@dataclass(frozen=True, slots=True)
class Bank:
    """The keys and values of all prompts at one site, one after the other.

    Args:
        keys, values: of the prompts, and one line of zeros that padding points at.
        at: for each prompt, where its keys stand in the bank (padded).
        real: False at that padding.
        place: position of each key relative to the first token of its sequence: `-length .. -1`.
        lengths: keys of each prompt; equal lengths mean equal masks.
    """

    keys: Float[Tensor, "bank kv_heads head_dim"]
    values: Float[Tensor, "bank kv_heads value_dim"]
    at: Int[Tensor, "prompts slots"]
    real: Bool[Tensor, "prompts slots"]
    place: Int[Tensor, "prompts slots"]
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> "Bank":
        """The same bank on another device."""
        return replace(
            self,
            keys=self.keys.to(device),
            values=self.values.to(device),
            at=self.at.to(device),
            real=self.real.to(device),
            place=self.place.to(device),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """The keys that one group sees at one kind of site, as flat indices and a mask.

    Args:
        key_place: within its sequence; keys of a prompt come first, at `-length .. -1`.
        slots: how many keys of prompts come first.
        bias: what the model adds to its scores by the places of two tokens, -inf where a key is not
            seen; None where it adds nothing.
    """

    key_at: Int[Tensor, "rows keys"]
    key_place: Int[Tensor, "rows keys"]
    distance: Int[Tensor, "rows tokens keys"]
    allowed: Bool[Tensor, "rows tokens keys"]
    slots: int
    bias: Float[Tensor, "rows heads tokens keys"] | None = None


@dataclass(eq=False)
class Call:
    """The prompts and the batch (or rows) of the forward pass under way.

    Args:
        prompts: of all sequences.
        batch: None for a pass by rows.
        rows: for a pass by rows: the prompt of each row (repeated as `generate` repeats rows).
        first_virtual: the backbone's `num_embeddings`; ids from here on are virtual.
        record: where the probe collects keys and values; None in ordinary use.
        keeps_weights: whether the pass under way was asked for its attention weights.
        dropout: whether the backbone's own dropout is on.
    """

    prompts: Sequence[PromptTensors]
    batch: Batch | None
    rows: Int[Tensor, " rows"] | None
    first_virtual: int
    record: list[tuple[nn.Module, dict[str, object]]] | None = None
    keeps_weights: bool = False
    dropout: bool = False
    counts: dict[int, int] = field(default_factory=dict)
    banks: dict[int, Bank] = field(default_factory=dict)
    _seen: dict[tuple[object, ...], Seen] = field(default_factory=dict)
    _biased: dict[tuple[object, ...], tuple[Tensor, Seen]] = field(default_factory=dict)
    _runs: dict[tuple[object, ...], Runs] = field(default_factory=dict)
    _elsewhere: dict[torch.device, "Call"] = field(default_factory=dict)

    def table(self) -> Float[Tensor, "slots width"] | None:
        """The virtual tokens of all prompts, one prompt after the other."""
        tables = [p.vectors for p in self.prompts if p.vectors is not None]
        return torch.cat(tables) if tables else None

    def offsets(self) -> list[int]:
        """Where each prompt's virtual tokens begin in `table`."""
        offsets, total = [], 0
        for prompt in self.prompts:
            offsets.append(total)
            total += 0 if prompt.vectors is None else len(prompt.vectors)
        return offsets

    def virtual(
        self, ids: Int[Tensor, "lines tokens"], prompt: Int[Tensor, "lines tokens"]
    ) -> Int[Tensor, "lines tokens"]:
        """Give every prompt its own ids: `-1 - slot` becomes `first_virtual + offset + slot`."""
        offsets = torch.tensor(self.offsets(), device=ids.device)
        return torch.where(ids < 0, self.first_virtual + offsets[prompt] - 1 - ids, ids)

    def moves(self, prompt: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """By how much its prompt moves the tokens of each place."""
        return torch.tensor([one.offset for one in self.prompts], device=prompt.device)[prompt]

    @property
    def moved(self) -> int:
        """By how much prompts move the decoder's tokens, at most; rows of `generate` all so."""
        most = max((prompt.offset for prompt in self.prompts), default=0)
        if not most or self.batch is not None or self.rows is None:
            return most
        return self.prompts[int(self.rows[0])].offset

    def count(self, module: nn.Module) -> int:
        """How often this module was called before in this pass."""
        before = self.counts.get(id(module), 0)
        self.counts[id(module)] = before + 1
        return before

    def build_banks(self, dtype: torch.dtype, device: torch.device) -> None:
        """Lay out the deep prompts, once for the pass and outside of any checkpointed layer."""
        for site in sorted({site for prompt in self.prompts for site in prompt.deep}):
            self.banks[site] = _bank([p.deep.get(site) for p in self.prompts], dtype, device)

    def on(self, device: torch.device) -> "Call":
        """The call as a layer on this device sees it: batch, rows and masks are there."""
        at = self.rows if self.batch is None else self.batch.ids
        if at is None or at.device == device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = replace(
                self,
                batch=None if self.batch is None else self.batch.to(device),
                rows=None if self.rows is None else self.rows.to(device),
                _seen={},
                _biased={},
                _runs={},
            )
        return self._elsewhere[device]

    def bank(self, site: int | None, device: torch.device) -> Bank | None:
        """The bank of a site, moved at its first use: a layer stays where it is."""
        bank = None if site is None else self.banks.get(site)
        if site is not None and bank is not None and bank.keys.device != device:
            bank = self.banks[site] = bank.to(device)
        return bank

    def side(self, decoding: bool) -> Batch:
        """The batch that one side of an encoder-decoder runs; of other models the only one."""
        assert self.batch is not None
        return self.batch.decoder if decoding and self.batch.decoder else self.batch

    def groups(self, kind: Kind) -> tuple[tuple[Group, ...], Int[Tensor, " flat"]]:
        """How attention of a kind goes, and the order of its answers."""
        batch = self.side(kind != "encoder")
        if kind == "cross":
            assert batch.cross_order is not None
            return batch.cross, batch.cross_order
        return batch.groups, batch.order

    def seen(
        self,
        kind: Kind,
        index: int,
        bank: Bank | None,
        causal: bool,
        window: int | None,
        by_place: Float[Tensor, "one heads places places"] | None = None,
    ) -> Seen:
        """Which keys group `index` sees; computed once for all sites of a kind.

        Args:
            by_place: what the model adds to the score of two tokens that stand at these places.
        """
        key = (kind, index, bank.lengths if bank else None, causal, window)
        group = self.groups(kind)[0][index]
        if key not in self._seen:
            self._seen[key] = see(group, bank, causal, window)
        if by_place is None:
            return self._seen[key]
        # Most models hand the bias of their first layer on to all others; some make one a layer.
        made_of, biased = self._biased.get(key, (None, None))
        if made_of is not by_place or biased is None:
            front = self.moved if kind == "decoder" else 0
            placed = [prompt.offset > 0 for prompt in self.prompts] if front else []
            biased = _with_bias(self._seen[key], group, by_place, front, placed)
            self._biased[key] = (by_place, biased)
        return biased

    def runs(self, kind: Kind, bank: Bank | None) -> Runs:
        """The sequences of all groups in one line, for a kernel that needs no mask; once a kind."""
        key = (kind, bank.lengths if bank else None)
        if key not in self._runs:
            groups = self.groups(kind)[0]
            if bank is not None:
                self._runs[key] = Runs.of(groups, bank.at, bank.real, len(bank.keys))
            else:
                none = groups[0].key_at.new_zeros(len(self.prompts), 0)
                self._runs[key] = Runs.of(groups, none, none.bool(), 0)
        return self._runs[key]


def _with_bias(
    seen: Seen,
    group: Group,
    by_place: Float[Tensor, "one heads places places"],
    front: int,
    placed: Sequence[bool],
) -> Seen:
    """Look the bias of each pair up; place 0 stands in row and column `front` of the table."""
    query = (group.query_place + front)[:, :, None]
    each = by_place[0][:, query, (group.key_place + front)[:, None, :]].transpose(0, 1)
    bias = functional.pad(each, (seen.slots, 0))  # a prompt's keys have no place
    if front and seen.slots:
        # Of prompts that move the text they have; padding points anywhere, and is masked below.
        at = (seen.key_place[:, : seen.slots] + front).clamp(0, by_place.shape[-1] - 1)
        has = torch.tensor(placed, device=at.device)[group.prompt][:, None, None, None]
        own = by_place[0][:, query, at[:, None, :]].transpose(0, 1) * has
        bias = torch.cat([own, bias[..., seen.slots :]], dim=-1)
    return replace(seen, bias=bias.masked_fill(~seen.allowed[:, None], float("-inf")))


def _bank(deep: Sequence[KeysValues | None], dtype: torch.dtype, device: torch.device) -> Bank:
    present = [kv for kv in deep if kv is not None]
    lengths = tuple(0 if kv is None else len(kv.keys) for kv in deep)
    starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths))])
    steps = torch.arange(max(lengths))
    length = torch.tensor(lengths)[:, None]
    real = steps < length
    # Padding points at zeros behind the last prompt: even where it is masked, a number of another
    # prompt that overflows would spoil the row (0 x infinity).
    at = torch.where(real, starts[:, None] + steps, sum(lengths))
    return Bank(
        keys=_ending_in_zeros([kv.keys for kv in present]).to(device, dtype),
        values=_ending_in_zeros([kv.values for kv in present]).to(device, dtype),
        at=at.to(device),
        real=real.to(device),
        place=(steps - length).to(device),
        lengths=lengths,
    )


def _ending_in_zeros(tables: Sequence[Tensor]) -> Float[Tensor, "bank kv_heads head_dim"]:
    return torch.cat([*tables, torch.zeros_like(tables[0][:1])])


def see(group: Group, bank: Bank | None, causal: bool, window: int | None) -> Seen:
    """Decide which keys each query of a group sees.

    Keys of the batch follow the model's own rule: not later than the query (causal), and nearer
    than `window`. Keys of a deep prompt are always seen: a sliding window never loses the prompt.
    """
    distance = group.query_place[:, :, None] - group.key_place[:, None, :]
    allowed = group.key_real[:, None, :].expand(distance.shape)
    if causal:
        allowed = allowed & (distance >= 0)
    if window is not None:
        # Bidirectional windows count both ways: transformers passes half the width plus one.
        allowed = allowed & (distance.abs() < window)
    if bank is None:
        return Seen(group.key_at, group.key_place, distance, allowed, 0)
    at, real, place = bank.at[group.prompt], bank.real[group.prompt], bank.place[group.prompt]
    shape = (*distance.shape[:2], at.shape[1])
    return Seen(
        key_at=torch.cat([at, group.key_at + len(bank.keys)], dim=1),
        key_place=torch.cat([place, group.key_place], dim=1),
        distance=torch.cat([group.query_place[:, :, None] - place[:, None, :], distance], dim=2),
        allowed=torch.cat([real[:, None, :].expand(shape), allowed], dim=2),
        slots=at.shape[1],
    )
