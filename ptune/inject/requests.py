"""What callers ask of a model with prompts that it does not give by itself, or not rightly.

    model.generate(ids, output_attentions=True)       # the weights, a deep prompt's keys first
    model.generate(ids, assistant_model=small)        # the small one reads padding for virtual ids

Weights of a packed batch are refused, and those of a model whose attention gives none away, before
anyone takes an empty answer for an answer.

An assistant proposes, and the model decides: what it says is the same with any. One that has a
tokenizer of its own gets the rows as text, which virtual ids are not, and is refused.

Ways to decode that need no second model (samples, beams, look-up in the prompt) are not met here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
        assistant = kwargs.get("assistant_model")
        if assistant is None or now is None or not _virtual(now, ids):
            return generate(*args, **kwargs)
        if kwargs.get("assistant_tokenizer") is not None:
            raise BackboneError(
                "An assistant with a tokenizer of its own gets the rows as text, and virtual "
                "tokens are none. Use an assistant with the model's tokenizer, or "
                "prompt_lookup_num_tokens, which works with every prompt."
            )
        with _reading_padding(assistant, model, now.first_virtual):
            return generate(*args, **kwargs)

    return [*undo, replace_method(model, "generate", checked)]


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
