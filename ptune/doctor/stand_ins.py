r"""A deep prompt by the model's own attention, where that takes no other one's place.

    row        t1 t2 t3 t4 | 0 0 | x x x       tokens behind the row stand in for the prompt:
    keys       k1 k2 k3 k4 | - - | p1 p2 p3    their keys and values are the prompt's
    scores     as the model makes them | of contents alone, for a prompt has no distance

(The padding between keeps them out of a convolution, as DeBERTa's large models have one.)

What a model adds for distances is found by running its attention, and not by knowing its code. Its
score is a sum of terms in the query, in the key, in both and in neither, so the term in both is

    content(q, k) = S(q, k) - S(0, k) - S(q, 0) + S(0, 0)

whatever the scale and the biases are. For DeBERTa (versions 2 and 3) and MPNet; of a model that
makes queries, keys and values in one product it finds nothing. No pack, no shim and no mask of
ptune's is met here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.doctor.oracles import States, own
from ptune.encoders import KeysValues

# Padding between a row and its stand-ins: what a convolution reads from its last token on.
GAP = 4

Scores = Float[Tensor, "... tokens keys"]
_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class Projections(NamedTuple):
    """What makes queries, keys and values of a module's states."""

    query: nn.Module
    key: nn.Module
    value: nn.Module


def by_stand_ins(
    backbone: Backbone, row: TokenSequence, deep: Mapping[int, KeysValues]
) -> States | None:
    """Final states of a row with a prompt at all sites; None where this cannot be had.

    It can where the model softmaxes its own scores at every site, and where tokens behind the row
    that nobody attends to leave it as it is.

    Args:
        deep: keys and values of all sites, equally many.
    """
    slots = {len(pair.keys) for pair in deep.values()}
    geometry = backbone.geometry
    if geometry.causal or geometry.two_sided or len(slots) != 1:
        return None
    attention = StandIns(backbone, deep, slots.pop())
    whole = len(row.ids) + GAP + attention.slots
    if whole > (geometry.max_tokens or whole):
        return None
    try:
        apart = attention.states(row.ids, seen=False)
        sound = attention.met == len(geometry.sites) and _near(apart, own(backbone, row))
        return attention.states(row.ids, seen=True) if sound else None
    except Exception:  # whatever a model raises whose code is of another kind
        return None


def _near(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm())


class StandIns:
    """Runs rows whose last tokens stand in for a prompt; `met` says at how many sites they did.

    Args:
        slots: keys of the prompt at each site.
    """

    def __init__(self, backbone: Backbone, deep: Mapping[int, KeysValues], slots: int) -> None:
        self.backbone, self.deep, self.slots = backbone, deep, slots
        self.met = 0

    @torch.no_grad()
    def states(self, ids: tuple[int, ...], *, seen: bool) -> States:
        """Final states of the row.

        Args:
            seen: whether its tokens attend to those behind them.
        """
        self.met = 0
        with ExitStack() as undo:
            for site, where in enumerate(self.backbone.geometry.sites):
                module = self.backbone.body.get_submodule(where.name)
                forward = self._attends(module, self.deep[site], seen)
                before = module.__dict__.get("forward")
                module.__dict__["forward"] = forward
                undo.callback(_put_back, module, before)
            whole = torch.tensor([ids + ids[:1] * (GAP + self.slots)], device=self.backbone.device)
            mask = torch.ones_like(whole)
            mask[0, len(ids) : len(ids) + GAP] = 0
            found = self.backbone.body(input_ids=whole, attention_mask=mask)
        return found.last_hidden_state[0, : len(ids)]

    def _attends(self, module: nn.Module, pair: KeysValues, seen: bool) -> Callable[..., Any]:
        forward, parts = module.forward, _projections(module)

        def attend(*args: Any, **kwargs: Any) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            scores = {}
            for asks, answers in product((True, False), repeat=2):
                with self._placed(parts, states, pair, asks, answers), _Softmax() as read:
                    forward(*args, **kwargs)
                scores[asks, answers] = read.scores
            content = scores[True, True] - scores[False, True]
            content = content - scores[True, False] + scores[False, False]
            behind = content[..., -self.slots :]
            if not seen:
                behind = torch.full_like(behind, float("-inf"))
            with self._placed(parts, states, pair, True, True), _Softmax(behind):
                answer = forward(*args, **kwargs)
            self.met += 1
            return answer

        return attend

    @contextmanager
    def _placed(
        self, parts: Projections, states: Tensor, pair: KeysValues, asks: bool, answers: bool
    ) -> Iterator[None]:
        """Keys and values of the prompt behind the row; zeros for queries, or for those keys."""

        def behind(made: Tensor, tensor: Tensor) -> Tensor:
            made = made.clone()
            made[0, -self.slots :] = tensor.flatten(1).to(made)
            return made

        changes: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
            (parts.query, lambda made: made if asks else torch.zeros_like(made)),
            (parts.key, lambda made: behind(made, pair.keys if answers else 0 * pair.keys)),
            (parts.value, lambda made: behind(made, pair.values)),
        ]
        with ExitStack() as hooks:
            for part, change in changes:
                # (The same projections may make tables of distances, from something else.)
                hooks.callback(
                    part.register_forward_hook(
                        lambda _, args, made, change=change: (
                            change(made) if args[0] is states else None
                        )
                    ).remove
                )
            yield


class _Softmax(TorchFunctionMode):
    """Reads what is softmaxed, or puts other scores in for the last keys.

    Args:
        behind: scores of the last keys; None reads alone.
    """

    def __init__(self, behind: Scores | None = None) -> None:
        super().__init__()
        self.behind, self.found = behind, []  # type: tuple[Scores | None, list[Scores]]

    @property
    def scores(self) -> Scores:
        """Of the one softmax that there was."""
        (scores,) = self.found
        return scores

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Meet every function of torch."""
        if func in _SOFTMAX:
            scores, *others = args
            self.found.append(scores)
            if self.behind is not None:
                kept = scores[..., : -self.behind.shape[-1]]
                args = (torch.cat([kept, self.behind], dim=-1), *others)
        return func(*args, **(kwargs or {}))


def _projections(module: nn.Module) -> Projections:
    """The linear parts of an attention module, by the letter that their names begin with.

    Raises:
        ValueError: there is not one of each.
    """
    named = [(name, part) for name, part in module.named_children() if isinstance(part, nn.Linear)]
    query, key, value = ([part for name, part in named if name[0] == one] for one in "qkv")
    (one,), (two,), (three,) = query, key, value
    return Projections(one, two, three)


def _put_back(module: nn.Module, before: Any) -> None:
    if before is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = before
