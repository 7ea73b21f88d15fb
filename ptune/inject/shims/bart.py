"""BART and its kin: absolute positions that the model counts along a line, not from `position_ids`.

    line       a b c d e f g       places     0 1 2 3 | 0 1 2        (two rows in one line)

In a pack each token has the position of its place within its own row. A prompt that moves the text
(`offset`, as PEFT's prefixes do) moves that of the decoder.
"""

from typing import Any

import torch
from torch import Tensor, nn


def positions(module: Any, *args: Any, **kwargs: Any) -> Tensor:
    """What an embedding of positions gives, for a pack by place and not by line."""
    injection = module.__dict__["_ptune"]
    call, decoding = injection.call, injection.in_decoder(module)
    if call is not None and call.batch is not None:
        side = call.on(module.weight.device).side(decoding)
        places = side.places
        if decoding and call.moved:
            by = torch.tensor([prompt.offset for prompt in call.prompts], device=places.device)
            places = places + by[side.prompt]
        # BART's first two rows stand for nothing (a table with padding inside, once).
        return nn.Embedding.forward(module, places + getattr(module, "offset", 0))
    if call is not None and decoding and call.moved:
        args, kwargs = _moved(call.moved, *args, **kwargs)
    return type(module).forward(module, *args, **kwargs)


def _moved(
    by: int, ids: Any, past: int = 0, position_ids: Tensor | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a position embedding for tokens that stand so much further on."""
    given = {} if position_ids is None else {"position_ids": position_ids + by}
    return (ids, past + by), given
