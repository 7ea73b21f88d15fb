"""The tokens that virtual tokens are near to: a hint of what a prompt learned, and no more.

    nearest_tokens(prompt.vectors, backbone's embeddings, k=3)    -> token ids with their cosines

Knows tensors only. Near tokens say little of what a vector does to the layers above.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.errors import ConfigError

# Rows of an embedding table compared at once: bounds the memory, 64 MB at width 1024.
ROWS_AT_ONCE = 16_384


def nearest_tokens(
    vectors: Float[Tensor, "slots width"], table: Float[Tensor, "vocab width"], k: int
) -> list[list[tuple[int, float]]]:
    """For each virtual token the `k` tokens nearest by cosine, `v . e / (|v| |e|)`.

    Args:
        table: the backbone's input embeddings.
        k: how many; all where the table has fewer.
    Returns:
        A list for each slot: (token id, cosine), the nearest first.
    Raises:
        ConfigError: `k` is below 1, or the widths differ.

    >>> nearest_tokens(torch.tensor([[0.0, 2.0]]), torch.eye(2), k=2)
    [[(1, 1.0), (0, 0.0)]]
    """
    if k < 1:
        raise ConfigError(f"k = {k}: ask for at least 1 token.")
    if vectors.shape[1] != table.shape[1]:
        raise ConfigError(
            f"The prompt's vectors have {vectors.shape[1]} numbers and the tokens "
            f"{table.shape[1]}. Give the embeddings of the backbone that the prompt was made for."
        )
    unit = torch.nn.functional.normalize(vectors.detach().float(), dim=1)
    cosines = torch.cat(
        [
            torch.nn.functional.normalize(rows.detach().float(), dim=1) @ unit.to(rows.device).T
            for rows in torch.split(table, ROWS_AT_ONCE)
        ]
    )
    best = cosines.topk(min(k, len(table)), dim=0)
    ids, scores = best.indices.T.tolist(), best.values.T.tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(ids, scores, strict=True)]
