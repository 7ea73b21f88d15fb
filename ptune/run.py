"""The one way to run a backbone: `run(backbone, prompts, batch)`.

    prompts = [PromptTensors(vectors=...)]                      # one a task
    batch = backbone.pack([TokenSequence((-1, -2, 5, 6), reads=(3,))])
    run(backbone, prompts, batch, read="words")                 # what the model would say there

Training, evaluation and serving all come through here, so that what is served is what was
evaluated. Knows no task and no template.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import Batch, PromptTensors, TokenSequence
from ptune.encoders import KeysValues, SiteShape
from ptune.errors import BackboneError
from ptune.inject import Call, Cut, Entering, Words, run_body
from ptune.inject.layers import above, beneath
from ptune.inject.probe import inputs_of

Reading = Literal["states", "words", "logits"]
Read = Float[Tensor, "reads features"] | Words


@overload
def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Literal["states", "logits"] = "states",
    entering: Entering | None = None,
    dropout: bool = False,
) -> Float[Tensor, "reads features"]: ...


@overload
def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Literal["words"],
    entering: Entering | None = None,
    dropout: bool = False,
) -> Words: ...


@overload
def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Reading,
    entering: Entering | None = None,
    dropout: bool = False,
) -> Read: ...


def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Reading = "states",
    entering: Entering | None = None,
    dropout: bool = False,
) -> Read:
    """Run the frozen backbone on a batch and return what stands at its reads.

    Args:
        prompts: all prompts that the batch names, in order.
        batch: from `Backbone.pack`.
        read: final states (before any head); `Words`, from which a task takes the probabilities of
            the words that it needs; or logits over the whole vocabulary.
        entering: what the lower layers compute of this batch (`run_beneath`, `ptune.trunk`), so
            that they need not run; None runs them.
        dropout: let the backbone's own dropout be on in this pass, as in train mode.
    Returns:
        One row a read, in the order of `Batch.reads`. Gradients reach the prompts alone.
    Raises:
        BackboneError: words are asked of a backbone without a language-model head.
    """
    if read != "states" and not backbone.has_lm_head:
        raise BackboneError(
            f'"{backbone.name}" has no language-model head, so it cannot generate or fill in '
            "words. Use a model saved with one, or task: sequence-classification."
        )
    batch = batch.to(backbone.device)
    call, inputs = _prepared(backbone, prompts, batch, dropout=dropout)
    with ExitStack() as stack:
        injection = stack.enter_context(backbone.injected())
        stack.enter_context(injection.serving(call))
        if entering is not None:
            stack.enter_context(above(injection, entering))
        output = run_body(backbone.body, inputs)
        states = output.last_hidden_state.flatten(0, 1)
        states = states.index_select(0, batch.reads.to(states.device)).to(backbone.device)
    if read == "states":
        return states
    words = Words(states, backbone.language_head(type(output)))
    return words if read == "words" else words.logits()


@torch.no_grad()
def run_beneath(
    backbone: Backbone, prompts: Sequence[PromptTensors], batch: Batch, cut: Cut
) -> Float[Tensor, "lines tokens width"]:
    """Run the layers beneath a cut and return the states that enter the first one above it."""
    batch = batch.to(backbone.device)
    call, inputs = _prepared(backbone, prompts, batch)
    with (
        backbone.injected() as injection,
        injection.serving(call),
        beneath(injection, cut) as caught,
    ):
        backbone.body(**inputs)
    return caught[0]


def _prepared(
    backbone: Backbone, prompts: Sequence[PromptTensors], batch: Batch, *, dropout: bool = False
) -> tuple[Call, dict[str, Any]]:
    """What a pass over a batch shares with its hooks, and the arguments of the model."""
    check_sites(backbone, prompts)
    side = batch.decoder or batch
    if backbone.geometry.max_tokens and any(prompt.offset for prompt in prompts):
        reached = {p: side.places[side.prompt == p] for p in range(len(prompts))}
        for p, places in reached.items():
            if len(places):
                check_length(backbone, int(places.max()) + 1, prompts[p].offset)
    else:
        check_length(backbone, side.longest)
    if batch.decoder is not None:  # prompts move the decoder's tokens alone
        check_length(backbone, batch.longest)
    call = Call(prompts, batch, None, backbone.geometry.num_embeddings, dropout=dropout)
    call.build_banks(backbone.dtype, backbone.device)
    ids = call.virtual(batch.ids, batch.prompt)
    other = batch.decoder
    decoded = None if other is None else call.virtual(other.ids, other.prompt)
    first = backbone.geometry.first_position + call.moves(batch.prompt)
    return call, inputs_of(batch, ids, backbone.geometry.takes, first, decoder_ids=decoded)


def check_sites(backbone: Backbone, prompts: Sequence[PromptTensors]) -> None:
    """Refuse keys and values for which this backbone has no place."""
    sites = backbone.geometry.sites
    for site, pair in (item for prompt in prompts for item in prompt.deep.items()):
        if site >= len(sites):
            raise BackboneError(
                f'"{backbone.name}" has {len(sites) or "no"} attention sites, and this prompt has '
                "keys and values for others. Use the backbone that it was made for."
            )
        shape = sites[site].shape
        made = SiteShape(pair.keys.shape[1], pair.keys.shape[2], pair.values.shape[2])
        if made != shape:
            raise BackboneError(
                f'"{backbone.name}" has {_heads(shape)} at its attention site {site}, and this '
                f"prompt has {_heads(made)}. Use the backbone that it was made for."
            )


def _heads(shape: SiteShape) -> str:
    widths = dict.fromkeys((shape.key_dim, shape.value_dim))
    width = " and ".join(map(str, widths))
    return f"{shape.kv_heads} key/value heads of {width} numbers"


def check_length(backbone: Backbone, tokens: int, moved: int = 0) -> None:
    """Refuse rows that reach beyond the positions that a backbone has.

    Those that only know differences of positions run with rows of any length.
    """
    geometry = backbone.geometry
    if geometry.relative or geometry.max_tokens is None or tokens + moved <= geometry.max_tokens:
        return
    moves = f", which the prompt moves by {moved}" if moved else ""
    raise BackboneError(
        f'A row has {tokens} tokens, virtual ones included{moves}, and "{backbone.name}" has '
        f"positions for {geometry.max_tokens}. Cut the row."
    )


@torch.no_grad()
def keys_values_of(
    backbone: Backbone, ids: Sequence[int], *, at: int | None = None
) -> PromptTensors:
    """A deep prompt made of the real keys and values of a text.

    Where only differences of positions matter, the text stands at the places before the first
    token, `-length .. -1`, and rows keep their positions. Elsewhere it stands at the first
    positions and the prompt carries an offset.

    A row run with this prompt is the row run behind the text (causal backbones; an encoder's keys
    would also depend on the row). Of an encoder-decoder both sides read the text, which is a place
    to start from and no more.

    Args:
        at: position of the first token; None is as said above.
    """
    geometry = backbone.geometry
    offset = at if at is not None else -len(ids) if geometry.relative else 0
    text = TokenSequence(tuple(ids))
    if geometry.two_sided:
        text = TokenSequence(tuple(ids), decoder=text)
    batch = backbone.pack([text]).to(backbone.device)
    record: list[tuple[Any, dict[str, Any]]] = []
    call = Call([PromptTensors()], batch, None, geometry.num_embeddings, record=record)
    first = geometry.first_position + offset
    decoded = None if batch.decoder is None else batch.decoder.ids
    inputs = inputs_of(batch, batch.ids, geometry.takes, first, decoder_ids=decoded)
    with backbone.injected() as injection, injection.serving(call):
        run_body(backbone.body, inputs)
    deep = {
        site: KeysValues(_tokens_first(found["keys"]), _tokens_first(found["values"]))
        for site, (_, found) in enumerate(record)
    }
    return PromptTensors(deep=deep, offset=0 if geometry.two_sided else offset + len(ids))


def _tokens_first(heads: Tensor) -> Float[Tensor, "slots kv_heads head_dim"]:
    return heads[0].transpose(0, 1).float().contiguous()
