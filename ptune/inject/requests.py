"""What callers ask of a model with prompts that it does not give by itself, or not rightly.

    model.generate(ids, output_attentions=True)       # the weights, a deep prompt's keys first
    model.generate(ids, repetition_penalty=1.2)       # virtual ids have no logits: passed over
    model.generate(ids, prompt_lookup_num_tokens=3)   # what is looked up ends at a virtual id
    model.generate(ids, assistant_model=small)        # the small one reads padding for virtual ids

Weights are refused where they would be empty or cut: of a packed batch, of encoder-decoders, of a
model whose attention gives none away, and of a deep prompt where tokens are guessed, because
transformers then cuts a step's weights to as many keys as there are tokens.

An assistant proposes, and the model decides: what it says is the same with any. One that has a
tokenizer of its own gets the rows as text, which virtual ids are not, and is refused.

Other ways to decode (samples, beams, caches, vectors in place of ids) are not met here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from ptune.errors import BackboneError
from ptune.inject.call import Call
from ptune.inject.forwards import replace_method
from ptune.inject.sides import input_embeddings, is_two_sided

Ids = Int[Tensor, "rows tokens"]
Scores = Float[Tensor, "rows vocab"]

_PENALTIES = (
    RepetitionPenaltyLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
)
_GUESSES = ("prompt_lookup_num_tokens", "assistant_model", "assistant_early_exit")


def watch(model: nn.Module, call: Callable[[], Call | None]) -> list[Callable[[], None]]:
    """See to such requests from here on; returns what undoes it.

    Args:
        call: what gives the pass under way.
    """

    undo = [
        model.register_forward_pre_hook(partial(_ask_for_weights, call), with_kwargs=True).remove,
        model.register_forward_hook(partial(_check_weights, call)).remove,
    ]
    generate = getattr(model, "generate", None)
    if generate is None:
        return undo
    return [*undo, replace_method(model, "generate", partial(_generate, call, model, generate))]


def _generate(
    now: Callable[[], Call | None],
    model: nn.Module,
    generate: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The model's own `generate`, asked with care where ids are virtual."""
    call = now()
    if call is None:
        return generate(*args, **kwargs)
    _refuse_cut_weights(call, model, kwargs)
    if not _virtual(call, kwargs.get("input_ids", args[0] if args else None)):
        return generate(*args, **kwargs)
    with _spared(model, call, kwargs):
        return generate(*args, **kwargs)


def _virtual(call: Call, ids: Any) -> bool:
    return isinstance(ids, Tensor) and bool((ids >= call.first_virtual).any())


# --------------------------------------------------------------------------- attention weights


def _ask_for_weights(
    now: Callable[[], Call | None], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Let ptune's attention keep its weights for this pass, or refuse."""
    call, asked = now(), bool(kwargs.get("output_attentions"))
    if call is None:
        return  # the model's own attention
    if asked and call.batch is not None:
        raise BackboneError(
            "Attention weights were asked of a packed batch, whose rows have no keys in common. "
            "Ask for them in `generate`, or leave output_attentions out."
        )
    if asked and is_two_sided(module):
        raise BackboneError(
            "Attention weights were asked of an encoder-decoder with prompts, which gives them of "
            "decoders alone. Leave output_attentions out."
        )
    call.keeps_weights = asked


def _check_weights(
    now: Callable[[], Call | None], module: nn.Module, args: tuple[Any, ...], answer: Any
) -> None:
    """Refuse to hand out weights that are not there."""
    call = now()
    if call is None or not call.keeps_weights:
        return
    call.keeps_weights = False
    found = getattr(answer, "attentions", None)
    if not found or any(weights is None for weights in found):
        raise BackboneError(
            f"Attention weights were asked of {type(module).__name__}, whose attention gives none "
            "away. Leave output_attentions out."
        )


def _refuse_cut_weights(call: Call, model: Any, asked: Mapping[str, Any]) -> None:
    config = asked.get("generation_config") or getattr(model, "generation_config", None)
    wanted, *guesses = (
        asked[name] if name in asked else getattr(config, name, None)
        for name in ("output_attentions", *_GUESSES)
    )
    if wanted and any(guesses) and any(prompt.deep for prompt in call.prompts):
        raise BackboneError(
            "Attention weights of a deep prompt were asked together with guessed tokens "
            f"({', '.join(_GUESSES)}), for which transformers cuts them. Leave one of the two out."
        )


# --------------------------------------------------------------------------- virtual ids


@contextmanager
def _spared(model: nn.Module, call: Call, asked: Mapping[str, Any]) -> Iterator[None]:
    """Keep virtual ids from those that do not know them: penalties, look-up, an assistant."""
    with ExitStack() as stack:
        for name, spare in (
            ("_get_logits_processor", _penalising_real_tokens),
            ("_get_candidate_generator", _looking_up_real_tokens),
        ):
            stack.callback(replace_method(model, name, spare(getattr(model, name), call)))
        assistant = asked.get("assistant_model")
        if assistant is not None:
            if asked.get("assistant_tokenizer") is not None:
                raise BackboneError(
                    "An assistant with a tokenizer of its own gets the rows as text, and virtual "
                    "tokens are none. Use an assistant with the model's tokenizer, or "
                    "prompt_lookup_num_tokens, which works with every prompt."
                )
            stack.enter_context(_reading_padding(assistant, model, call.first_virtual))
        yield


def _penalising_real_tokens(made: Callable[..., Any], call: Call) -> Callable[..., Any]:
    ids = _ids_of(call)

    def build(*args: Any, **kwargs: Any) -> LogitsProcessorList:
        processors: LogitsProcessorList = made(*args, **kwargs)
        for at, processor in enumerate(processors):
            if isinstance(processor, _PENALTIES):
                processors[at] = PassingOver(processor, ids)
        return processors

    return build


def _ids_of(call: Call) -> int:
    """How many ids there are, virtual ones included."""
    slots = sum(0 if prompt.vectors is None else len(prompt.vectors) for prompt in call.prompts)
    return call.first_virtual + slots


class PassingOver(LogitsProcessor):  # type: ignore[misc]
    """A penalty that looks logits up by the ids of a row; virtual ones find columns of their own.

    Args:
        processor: the penalty.
        ids: how many there are, virtual ones included.
    """

    def __init__(self, processor: Any, ids: int) -> None:
        self.processor, self.ids = processor, ids

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """The scores, real tokens punished."""
        words = scores.shape[1]
        with_room = functional.pad(scores, (0, max(0, self.ids - words)))
        punished: Scores = self.processor(input_ids, with_room)
        return punished[:, :words]


def _looking_up_real_tokens(made: Callable[..., Any], call: Call) -> Callable[..., Any]:
    ids = _ids_of(call)

    def build(*args: Any, **kwargs: Any) -> Any:
        found = made(*args, **kwargs)
        rules = getattr(found, "logits_processor", None)
        if isinstance(found, PromptLookupCandidateGenerator) and rules is not None:
            found.logits_processor = _ForbiddingVirtual(rules, ids)
        return found

    return build


class _ForbiddingVirtual:
    """Rules by which look-up cuts what it found: at a forbidden token, as virtual ones are here."""

    def __init__(self, rules: Callable[[Ids, Scores], Scores], ids: int) -> None:
        self.rules, self.ids = rules, ids

    def __call__(self, input_ids: Ids, scores: Scores) -> Float[Tensor, "rows ids"]:
        room = max(0, self.ids - scores.shape[1])
        return functional.pad(self.rules(input_ids, scores), (0, room), value=-torch.inf)


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
