"""To go on behind a prompt: the model's own `generate`.

    generate(backbone, prompts, sequences, max_new_tokens=5)    # rows of several prompts, greedily
    continue_rows(backbone, prompt, ids, mask, options)         # one prompt, any option there is

Rows pass the model as they are, not packed: its cache and its ways to search are made for rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.inject import Call
from ptune.inject.shims import continues_alone
from ptune.run import check_length, check_sites


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
    check_sites(backbone, prompts)
    backbone.check_ids(sequences)
    for one in sequences:  # prompts move the decoder's tokens alone
        check_length(backbone, len(one.answered.ids), prompts[one.prompt].offset)
        check_length(backbone, len(one.ids))
    search = {
        "max_new_tokens": max_new_tokens,
        "num_beams": beams,
        "length_penalty": length_penalty if beams > 1 else None,
    }
    alone = continues_alone(backbone.body)
    if not (backbone.geometry.two_sided or alone):
        return _generated(backbone, prompts, sequences, search)
    # Decoders are not padded: not every one of them can be told where its rows begin.
    alike: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        begins = prompts[sequence.prompt].offset
        kind = (row,) if alone else (len(sequence.answered.ids), begins)
        alike.setdefault(kind, []).append(row)
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
    if padding is None or padding >= backbone.geometry.num_embeddings:  # never seen: any will do
        padding = end or 0
    rows = torch.tensor([s.prompt for s in sequences], device=backbone.device)
    call = Call(prompts, None, rows, backbone.geometry.num_embeddings)
    call.build_banks(backbone.dtype, backbone.device)
    two_sided = backbone.geometry.two_sided
    ids, mask = _padded(call, [s.ids for s in sequences], padding, left=not two_sided)
    inputs = {"input_ids": ids, "attention_mask": mask}
    said = ids
    if two_sided:
        said, _ = _padded(call, [s.answered.ids for s in sequences], padding)
        inputs["decoder_input_ids"] = said
    inputs |= {} if two_sided else _positions(backbone, call, mask)
    with backbone.injected() as injection, injection.serving(call), _plainly(backbone.model):
        answer = backbone.model.generate(
            **inputs,
            **search,
            # What the rows begin with: transformers puts its own in front of what does not.
            **({"decoder_start_token_id": int(said[0, 0])} if two_sided else {}),
            eos_token_id=end,
            pad_token_id=padding,
            synced_gpus=backbone.sharded,  # all processes go on until the last one is done
        )
    new = answer[:, said.shape[1] :].tolist()
    return [row[: row.index(end)] if end in row else row for row in new]


def _positions(backbone: Backbone, call: Call, mask: Int[Tensor, "rows tokens"]) -> dict[str, Any]:
    """Positions where `generate` would count otherwise than `run` does.

    Where prompts move the text, and where positions begin behind the padding id (RoBERTa):
    transformers' own `generate` lets them begin at 0 there, its `forward` does not.
    """
    begin = backbone.geometry.first_position
    if call.rows is None or not (begin or any(prompt.offset for prompt in call.prompts)):
        return {}
    first = begin + call.moves(call.rows)[:, None]
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0) + first}


@torch.no_grad()
def continue_rows(
    backbone: Backbone,
    prompt: PromptTensors,
    texts: Int[Tensor, "rows tokens"] | Float[Tensor, "rows tokens width"],
    mask: Int[Tensor, "rows tokens"],
    options: Mapping[str, Any],
) -> Any:
    """The model's own `generate`, with `options` of its own, on rows as they are.

    Args:
        texts, mask: padded on the left. Ids, of which `-1 - slot` is a virtual token of the prompt
            of all rows; or vectors, with those of the prompt among them.
    Returns:
        What it returns: rows that begin with the ids, virtual tokens above the vocabulary.
    """
    check_sites(backbone, [prompt])
    check_length(backbone, int(mask.sum(1).max()), prompt.offset)
    rows = torch.zeros(len(texts), dtype=torch.long, device=backbone.device)
    call = Call([prompt], None, rows, backbone.geometry.num_embeddings)
    call.build_banks(backbone.dtype, backbone.device)
    texts, mask = texts.to(backbone.device), mask.to(backbone.device)
    asked = {"attention_mask": mask, **_positions(backbone, call, mask)}
    if texts.is_floating_point():
        asked["inputs_embeds"] = texts.to(backbone.dtype)
    else:
        real = mask.bool()
        backbone.check_ids([TokenSequence(tuple(texts[real].tolist()))])
        known = (texts >= 0) & (texts < backbone.geometry.num_embeddings)
        texts = texts.masked_fill(~(real | known), 0)  # padding, which no model sees
        asked["input_ids"] = call.virtual(texts, torch.zeros_like(texts))
    with backbone.injected() as injection, injection.serving(call):
        return backbone.model.generate(**asked, **options)


@contextmanager
def _plainly(model: Any) -> Iterator[None]:
    """Without what the model's own file says of generation: an answer is what `run` finds likely.

    (But whether it has a cache: not every model can have one.)
    """
    own = model.generation_config
    model.generation_config = type(own)(use_cache=own.use_cache)
    try:
        yield
    finally:
        model.generation_config = own


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
    ids = call.virtual(ids, call.rows[:, None].expand(ids.shape))
    return ids, torch.tensor(real, device=call.rows.device)
