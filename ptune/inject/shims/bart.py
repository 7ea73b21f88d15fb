"""BART and its kin: absolute positions that the model counts along a line, not from `position_ids`.

    line       a b c d e f g       places     0 1 2 3 | 0 1 2        (two rows in one line)

In a pack each token has the position of its place within its own row.
"""

from typing import Any

from torch import Tensor, nn


def positions(module: Any, *args: Any, **kwargs: Any) -> Tensor:
    """What an embedding of positions gives, for a pack by place and not by line."""
    injection = module.__dict__["_ptune"]
    call = injection.call
    if call is None or call.batch is None:
        return type(module).forward(module, *args, **kwargs)
    places = call.on(module.weight.device).side(injection.in_decoder(module)).places
    # BART's first two rows stand for nothing (a table with padding inside, once).
    return nn.Embedding.forward(module, places + getattr(module, "offset", 0))
