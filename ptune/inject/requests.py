"""What a model cannot give while prompts are injected, and says so instead of giving it wrong.

    model.generate(ids, output_attentions=True)       # refused: ptune's attention keeps no weights
    model.generate(ids, assistant_model=small)        # refused where ids are virtual

Ways to decode that need no second model (samples, beams, look-up in the prompt) are not met here.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ptune.errors import BackboneError
from ptune.inject.call import Call
from ptune.inject.forwards import replace_method


def watch(model: nn.Module, call: Callable[[], Call | None]) -> list[Callable[[], None]]:
    """Refuse such requests from here on; returns what undoes it.

    Args:
        call: what gives the pass under way.
    """
    undo = [model.register_forward_pre_hook(_no_weights, with_kwargs=True).remove]
    generate = getattr(model, "generate", None)
    if generate is None:
        return undo

    def checked(*args: Any, **kwargs: Any) -> Any:
        now, ids = call(), kwargs.get("input_ids", args[0] if args else None)
        if kwargs.get("assistant_model") is not None and now is not None and _virtual(now, ids):
            raise BackboneError(
                "An assistant model does not know virtual tokens, and these rows have them. Leave "
                "assistant_model out; prompt_lookup_num_tokens works with every prompt."
            )
        return generate(*args, **kwargs)

    return [*undo, replace_method(model, "generate", checked)]


def _virtual(call: Call, ids: Any) -> bool:
    return isinstance(ids, Tensor) and bool((ids >= call.first_virtual).any())


def _no_weights(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("output_attentions"):
        raise BackboneError(
            "Attention weights were asked of a model with prompts, and ptune's attention keeps "
            "none. Leave output_attentions out."
        )
