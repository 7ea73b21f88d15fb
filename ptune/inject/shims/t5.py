"""T5: positions are a bias on the scores, by how far apart two tokens of one sequence are.

    score(i, j) = q_i k_j + bias_head[bucket(j - i)]                  arXiv:1910.10683

The model makes the bias for the tokens of a line. A pack has many sequences in one line, whose
places all begin at 0, so a bias of the size of the longest sequence says all; ptune's attention
looks each pair of places up in it. Keys of a deep prompt have no place: their bias is 0. Those of a
prompt that moves the decoder's tokens (`offset`, as PEFT's prefixes do) stand before the first
token, at `-length .. -1`: the bias then has so many places more, which come first.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor


def compute_bias(
    module: Any,  # T5Attention
    query_length: int,
    key_length: int,
    device: Any = None,
    past_seen_tokens: Any = 0,
) -> Float[Tensor, "one heads queries keys"]:
    """What `T5Attention.compute_bias` gives, for a pack by place and not by line."""
    injection = module.__dict__["_ptune"]
    call, own = injection.call, type(module).compute_bias
    if call is None:
        return own(module, query_length, key_length, device, past_seen_tokens)
    front = call.moved if injection.in_decoder(module) else 0
    if call.batch is None:
        return own(module, query_length, key_length + front, device, past_seen_tokens + front)
    longest = call.side(injection.in_decoder(module)).longest + front
    return own(module, longest, longest, device)
