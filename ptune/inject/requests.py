"""What callers ask of a model with prompts that it does not give by itself, or not rightly.

    model.generate(ids, output_attentions=True)       # the weights, a deep prompt's keys first
    model.generate(ids, assistant_model=small)        # the small one reads padding for virtual ids

Weights of a packed batch are refused, and those of a model whose attention gives none away, before
anyone takes an empty answer for an answer.

An assistant proposes, and the model decides: what it says is the same with any. One that has a
tokenizer of its own gets the rows as text, which virtual ids are not, and is refused. A repetition
penalty looks its logits up by the ids of the row, and meets real ones alone.

Ways to decode that need no second model (samples, beams, look-up in the prompt) are not met here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from ptune.errors import BackboneError
from ptune.inject.call import Call
from ptune.inject.forwards import replace_method
from ptune.inject.sides import input_embeddings


def watch(model: nn.Module, call: Callable[[], Call | None]) -> list[Callable[[], None]]:
    """See to such requests from here on; returns what undoes it.

    Args:
        call: what gives the pass under way.
    """

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _ask_for_weights(call(), bool(kwargs.get("output_attentions")))

    def after(module: nn.Module, args: tuple[Any, ...], answer: Any) -> None:
        _check_weights(call(), module, answer)

    undo = [
        model.register_forward_pre_hook(before, with_kwargs=True).remove,
        model.register_forward_hook(after).remove,
    ]
    generate = getattr(model, "generate", None)
    if generate is None:
        return undo

    def checked(*args: Any, **kwargs: Any) -> Any:
        now, ids = call(), kwargs.get("input_ids", args[0] if args else None)
        if now is None or not _virtual(now, ids):
            return generate(*args, **kwargs)
        with _spared(model, now.first_virtual, kwargs):
            return generate(*args, **kwargs)

    return [*undo, replace_method(model, "generate", checked)]


@contextmanager
def _spared(model: nn.Module, first_virtual: int, asked: Mapping[str, Any]) -> Iterator[None]:
    """Keep virtual tokens from those that do not know them: a penalty, and an assistant."""
    with ExitStack() as stack:
        stack.enter_context(_penalising_real_tokens(model, first_virtual))
        assistant = asked.get("assistant_model")
        if assistant is not None:
            if asked.get("assistant_tokenizer") is not None:
                raise BackboneError(
                    "An assistant with a tokenizer of its own gets the rows as text, and virtual "
                    "tokens are none. Use an assistant with the model's tokenizer, or "
                    "prompt_lookup_num_tokens, which works with every prompt."
                )
            stack.enter_context(_reading_padding(assistant, model, first_virtual))
        yield


@contextmanager
def _penalising_real_tokens(model: nn.Module, first_virtual: int) -> Iterator[None]:
    """Let a repetition penalty pass over virtual tokens, which have no logits."""
    made: Any = model._get_logits_processor

    def build(*args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors: LogitsProcessorList = made(*args, **kwargs)
        for at, processor in enumerate(processors):
            if isinstance(processor, RepetitionPenaltyLogitsProcessor):
                processors[at] = _AmongReal(processor, first_virtual)
        return processors

    undo = replace_method(model, "_get_logits_processor", build)
    try:
        yield
    finally:
        undo()


class _AmongReal(LogitsProcessor):  # type: ignore[misc]
    """A penalty that meets, in place of a virtual token, a real one that its row has anyway.

    To count a token twice is to count it once, so nothing else changes.
    """

    def __init__(self, processor: RepetitionPenaltyLogitsProcessor, first_virtual: int) -> None:
        self.processor, self.first_virtual = processor, first_virtual

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        virtual = input_ids >= self.first_virtual
        if bool(virtual.all(dim=1).any()):
            return scores  # a row has nothing to repeat yet
        first = (~virtual).long().argmax(dim=1, keepdim=True)
        ids = torch.where(virtual, input_ids.gather(1, first), input_ids)
        penalised: Tensor = self.processor(ids, scores)
        return penalised


@contextmanager
def _reading_padding(assistant: Any, model: nn.Module, first_virtual: int) -> Iterator[None]:
    """Let an assistant that knows no prompt meet padding where a token is virtual."""
    padding = getattr(assistant.config.get_text_config(), "pad_token_id", None) or 0

    def hide(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (torch.where(args[0] >= first_virtual, padding, args[0]),)

    own = set(model.modules())  # an assistant may be made of the model's own layers
    with ExitStack() as hooks:
        for embedding in input_embeddings(assistant):
            if embedding not in own:
                hooks.callback(embedding.register_forward_pre_hook(hide).remove)
        yield


def _virtual(call: Call, ids: Any) -> bool:
    return isinstance(ids, Tensor) and bool((ids >= call.first_virtual).any())


def _ask_for_weights(call: Call | None, asked: bool) -> None:
    """Let ptune's attention keep its weights for this pass, or refuse."""
    if call is None:
        return  # the model's own attention
    if asked and call.batch is not None:
        raise BackboneError(
            "Attention weights were asked of a packed batch, whose rows have no keys in common. "
            "Ask for them in `generate`, or leave output_attentions out."
        )
    call.keeps_weights = asked


def _check_weights(call: Call | None, module: nn.Module, answer: Any) -> None:
    """Refuse to hand out weights that are not there."""
    if call is None or not call.keeps_weights:
        return
    found = getattr(answer, "attentions", None) or getattr(answer, "decoder_attentions", None)
    if not found or any(weights is None for weights in found):
        raise BackboneError(
            f"Attention weights were asked of {type(module).__name__}, whose attention gives none "
            "away. Leave output_attentions out."
        )
