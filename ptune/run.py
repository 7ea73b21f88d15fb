"""The one way to run a backbone: `run(backbone, prompts, batch)`.

    prompts = [PromptTensors(vectors=...)]                      # one a task
    batch = backbone.pack([TokenSequence((-1, -2, 5, 6), reads=(3,))])
    run(backbone, prompts, batch, read="words")                 # what the model would say there

Training, evaluation and serving all come through here, so that what is served is what was
evaluated. Knows no task and no template.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import Batch, PromptTensors, TokenSequence
from ptune.encoders import KeysValues
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
) -> Float[Tensor, "reads features"]: ...


@overload
def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Literal["words"],
    entering: Entering | None = None,
) -> Words: ...


@overload
def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Reading,
    entering: Entering | None = None,
) -> Read: ...


def run(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    batch: Batch,
    *,
    read: Reading = "states",
    entering: Entering | None = None,
) -> Read:
    """Run the frozen backbone on a batch and return what stands at its reads.

    Args:
        prompts: all prompts that the batch names, in order.
        batch: from `Backbone.pack`.
        read: final states (before any head); `Words`, from which a task takes the probabilities of
            the words that it needs; or logits over the whole vocabulary.
        entering: what the lower layers compute of this batch (`run_beneath`, `ptune.trunk`), so
            that they need not run; None runs them.
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
    call, inputs = _prepared(backbone, prompts, batch)
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
    backbone: Backbone, prompts: Sequence[PromptTensors], batch: Batch
) -> tuple[Call, dict[str, Any]]:
    """What a pass over a batch shares with its hooks, and the arguments of the model."""
    _check_sites(backbone, prompts)
    call = Call(prompts, batch, None, backbone.geometry.num_embeddings)
    call.build_banks(backbone.dtype, backbone.device)
    ids = _with_virtual_ids(batch.ids, batch.prompt, call)
    other = batch.decoder
    decoded = None if other is None else _with_virtual_ids(other.ids, other.prompt, call)
    first = backbone.geometry.first_position + _offsets(prompts, batch.prompt)
    return call, inputs_of(batch, ids, backbone.geometry.takes, first, decoder_ids=decoded)


def _check_sites(backbone: Backbone, prompts: Sequence[PromptTensors]) -> None:
    """Refuse keys and values for which this backbone has no place."""
    count = len(backbone.geometry.sites)
    if any(site >= count for prompt in prompts for site in prompt.deep):
        raise BackboneError(
            f'"{backbone.name}" has {count or "no"} attention sites, and this prompt has keys and '
            "values for others. Use the backbone that it was made for."
        )


def _with_virtual_ids(
    ids: Int[Tensor, "lines tokens"], prompt: Int[Tensor, "lines tokens"], call: Call
) -> Int[Tensor, "lines tokens"]:
    """Give every prompt its own ids: `-1 - slot` becomes `num_embeddings + offset + slot`."""
    offsets = torch.tensor(call.offsets(), device=ids.device)
    return torch.where(ids < 0, call.first_virtual + offsets[prompt] - 1 - ids, ids)


def _offsets(prompts: Sequence[PromptTensors], prompt: Int[Tensor, "..."]) -> Tensor:
    return torch.tensor([p.offset for p in prompts], device=prompt.device)[prompt]


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


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    sequences: Sequence[TokenSequence],
    *,
    max_new_tokens: int,
    beams: int = 1,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """Continue each sequence greedily or by beams, with the model's own `generate`.

    An encoder-decoder continues the decoder side of each.

    Args:
        beams: 1 takes the most likely token at every step.
        length_penalty: of beams: a finished one counts as its log-probability divided by its length
            to this power.
    Returns:
        The new tokens of each sequence, up to and without the end token.
    """
    _check_sites(backbone, prompts)
    search = {
        "max_new_tokens": max_new_tokens,
        "num_beams": beams,
        "length_penalty": length_penalty if beams > 1 else None,
    }
    if not backbone.geometry.two_sided:
        return _generated(backbone, prompts, sequences, search)
    # Decoders are not padded: not every one of them can be told where its rows begin.
    alike: dict[tuple[int, int], list[int]] = {}
    for row, sequence in enumerate(sequences):
        begins = prompts[sequence.prompt].offset
        alike.setdefault((len(sequence.answered.ids), begins), []).append(row)
    answers: dict[int, list[int]] = {}
    for rows in alike.values():
        made = _generated(backbone, prompts, [sequences[row] for row in rows], search)
        answers |= zip(rows, made, strict=True)
    return [answers[row] for row in range(len(sequences))]


def _generated(
    backbone: Backbone,
    prompts: Sequence[PromptTensors],
    sequences: Sequence[TokenSequence],
    search: dict[str, Any],
) -> list[list[int]]:
    end = backbone.tokenizer.eos_token_id
    padding = backbone.tokenizer.pad_token_id
    padding = (end or 0) if padding is None else padding
    rows = torch.tensor([s.prompt for s in sequences], device=backbone.device)
    call = Call(prompts, None, rows, backbone.geometry.num_embeddings)
    call.build_banks(backbone.dtype, backbone.device)
    two_sided = backbone.geometry.two_sided
    ids, mask = _padded(call, [s.ids for s in sequences], padding, left=not two_sided)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if two_sided:
        inputs["decoder_input_ids"], _ = _padded(call, [s.answered.ids for s in sequences], padding)
    inputs |= {} if two_sided else _positions(backbone, call, mask)
    with backbone.injected() as injection, injection.serving(call):
        answer = backbone.model.generate(
            **inputs,
            **search,
            **_PLAIN,
            **({"decoder_start_token_id": backbone.decoder_start} if two_sided else {}),
            eos_token_id=end,
            pad_token_id=padding,
            synced_gpus=backbone.sharded,  # all processes go on until the last one is done
        )
    said = inputs.get("decoder_input_ids", ids).shape[1]
    new = answer[:, said:].tolist()
    return [row[: row.index(end)] if end in row else row for row in new]


def _positions(backbone: Backbone, call: Call, mask: Int[Tensor, "rows tokens"]) -> dict[str, Any]:
    """Where prompts move the text: positions; else the model counts as `run` does."""
    if call.rows is None or not any(prompt.offset for prompt in call.prompts):
        return {}
    first = backbone.geometry.first_position + _offsets(call.prompts, call.rows)[:, None]
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0) + first}


@torch.no_grad()
def continue_rows(
    backbone: Backbone,
    prompt: PromptTensors,
    ids: Int[Tensor, "rows tokens"],
    mask: Int[Tensor, "rows tokens"],
    options: Mapping[str, Any],
) -> Any:
    """The model's own `generate`, with `options` of its own, on rows as they are.

    Args:
        ids, mask: padded on the left; `-1 - slot` is a virtual token of the prompt of all rows.
    Returns:
        What it returns; its rows begin with `ids`, virtual tokens above the vocabulary.
    """
    _check_sites(backbone, [prompt])
    rows = torch.zeros(len(ids), dtype=torch.long, device=backbone.device)
    call = Call([prompt], None, rows, backbone.geometry.num_embeddings)
    call.build_banks(backbone.dtype, backbone.device)
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    asked = {"input_ids": _with_virtual_ids(ids, torch.zeros_like(ids), call)}
    asked |= {"attention_mask": mask, **_positions(backbone, call, mask)}
    with backbone.injected() as injection, injection.serving(call):
        return backbone.model.generate(**asked, **options)


# Whatever the model's own file says: an answer is what `run` finds most likely.
_PLAIN = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "early_stopping": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "output_attentions": False,
    "return_dict_in_generate": False,
}


def _padded(
    call: Call, rows: Sequence[tuple[int, ...]], padding: int, *, left: bool = False
) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"]]:
    """Rows as `generate` takes them, and which of their ids are real."""
    assert call.rows is not None
    width = max(len(ids) for ids in rows)
    pads = [width - len(ids) for ids in rows]
    filled = [
        [padding] * count + list(ids) if left else list(ids) + [padding] * count
        for ids, count in zip(rows, pads, strict=True)
    ]
    real = [
        [0] * count + [1] * (width - count) if left else [1] * (width - count) + [0] * count
        for count in pads
    ]
    ids = torch.tensor(filled, device=call.rows.device)
    ids = _with_virtual_ids(ids, call.rows[:, None].expand(ids.shape), call)
    return ids, torch.tensor(real, device=call.rows.device)
