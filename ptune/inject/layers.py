r"""A pass through some of a model's layers: those beneath a cut, or those above it.

    layer 0   layer 1   layer 2 | layer 3   layer 4        the cut: a deep prompt begins in layer 3
    \______ beneath: the trunk _/ \____ above: prompts ___/

    with beneath(injection, cut) as caught:        layers 0 .. 2 run, the others hand on
        body(...)
    with above(injection, Entering(cut, caught[0])):        layers 0 .. 2 hand on, 3 and 4 run
        body(...)

To hand on is to return the states that came in, in the form in which the model's layers return
theirs. Embeddings, masks and rotary tables run in both: they are the model's own affair, and cheap.
Layers are counted by their calls, so one module that serves as several layers (ALBERT) is cut, too.

Does not know whether a model may be cut: one whose layers hand on more than states may not.
`ptune.trunk` tries it before it relies on it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ptune.errors import BackboneError
from ptune.inject.forwards import replace_forward
from ptune.inject.session import Injection, layers

States = Float[Tensor, "lines tokens width"]
# What stands before each call of a layer: number of the call, the layer's own forward, arguments.
Meet = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


# What a layer returned has no form that could be imitated.
MORE = -1


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a layer.

    Args:
        sites: attention sites that were met before it.
        token_bytes: of the states that entered it, a token.
        form: what it returned, as in `Cut`; `MORE` where it was more than states.
    """

    sites: int
    token_bytes: int
    form: int | None


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a model is cut in two.

    Args:
        layers: calls of layers beneath the cut.
        total: of all layers.
        sites: attention sites beneath the cut.
        token_bytes: of the states that enter the layer above the cut, a token.
        form: what a layer returns: states alone (None), or a tuple of so many in which they stand
            first and nothing else is.
    """

    layers: int
    total: int
    sites: int
    token_bytes: int
    form: int | None

    def handed_on(self, states: Tensor) -> Any:
        """These states as a layer returns them."""
        return states if self.form is None else (states, *[None] * (self.form - 1))


@dataclass(frozen=True, slots=True)
class Entering:
    """The states that enter the first layer above a cut."""

    cut: Cut
    states: States


def cut_at(calls: list[LayerCall], site: int) -> Cut:
    """The cut beneath the layer that holds a site.

    Args:
        calls: of a whole pass, from `watching`.
    Raises:
        BackboneError: the layers hand on more than states.
    """
    forms = {call.form for call in calls}
    if len(forms) != 1 or MORE in forms:
        raise BackboneError("its layers return more than states")
    below = max(number for number, call in enumerate(calls) if call.sites <= site)
    first = calls[below]
    return Cut(below, len(calls), first.sites, first.token_bytes, first.form)


@contextmanager
def watching(injection: Injection) -> Iterator[list[LayerCall]]:
    """Write down every call of a layer in the passes inside."""
    calls: list[LayerCall] = []

    def meet(
        number: int, forward: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        assert injection.call is not None
        sites = sum(injection.call.counts.values())
        states = _entering(args, named)
        returned = forward(*args, **named)
        size = states.shape[-1] * states.element_size()
        calls.append(LayerCall(sites, size, _form(returned)))
        return returned

    with _met(injection, meet):
        yield calls


def _form(returned: Any) -> int | None:
    if isinstance(returned, Tensor):
        return None
    alone = isinstance(returned, tuple) and all(other is None for other in returned[1:])
    return len(returned) if alone else MORE


@contextmanager
def beneath(injection: Injection, cut: Cut) -> Iterator[list[States]]:
    """Run only the layers beneath the cut in the pass inside, and catch what would enter above."""
    caught: list[States] = []

    def meet(
        number: int, forward: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if number < cut.layers:
            return forward(*args, **named)
        states = _entering(args, named)
        if number == cut.layers:
            caught.append(states)
        return cut.handed_on(states)

    with _met(injection, meet):
        yield caught


@contextmanager
def above(injection: Injection, entering: Entering) -> Iterator[None]:
    """Run only the layers above the cut in the pass inside, on these states."""
    cut = entering.cut
    injection.pass_over(cut.sites)

    def meet(
        number: int, forward: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if number < cut.layers:
            return cut.handed_on(_entering(args, named))
        if number == cut.layers:
            if args:
                args = (entering.states, *args[1:])
            else:
                named = named | {"hidden_states": entering.states}
        return forward(*args, **named)

    with _met(injection, meet):
        yield


def _entering(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    states: Tensor = args[0] if args else named["hidden_states"]
    return states


@contextmanager
def _met(injection: Injection, meet: Meet) -> Iterator[None]:
    """Put `meet` before every layer, outside of its gradient checkpointing where there is one."""
    number = count()
    undo = [
        replace_forward(layer, partial(_counted, meet, number, layer.forward))
        for layer in layers(injection.model, injection.sites)
    ]
    try:
        yield
    finally:
        for step in undo:
            step()


def _counted(
    meet: Meet, number: Iterator[int], forward: Callable[..., Any], *args: Any, **named: Any
) -> Any:
    return meet(next(number), forward, args, named)
