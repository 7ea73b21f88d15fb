"""A kernel for rows of different lengths as torch documents its own, slow and in float64.

Query i of n may see key j of m: always; in causal attention where `j - i <= m - n`, so that the
last query sees the last key.
"""

from itertools import pairwise

import torch

NONE, CAUSAL = (-1, -1), (-1, 0)


class Kernel:
    """Computes what it is asked for, and remembers how often it was asked.

    Args:
        first: align the causal mask at the first query and key, as another convention has it.
    """

    def __init__(self, first=False):
        self.calls = 0
        self.first = first

    def __call__(
        self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=NONE
    ):
        self.calls += 1
        assert window_size in (NONE, CAUSAL)
        assert query.shape[1] == key.shape[1] == value.shape[1]
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        bounds = list(zip(cu_seq_q.tolist(), cu_seq_k.tolist(), strict=True))
        assert bounds[0] == (0, 0)
        assert bounds[-1] == (len(query), len(key)) == (len(query), len(value))
        answers = []
        for (q, k), (q_end, k_end) in pairwise(bounds):
            assert 0 < q_end - q <= max_q
            assert 0 < k_end - k <= max_k
            answers.append(
                self._one(query[q:q_end], key[k:k_end], value[k:k_end], scale, window_size)
            )
        return torch.cat(answers).to(query.dtype)

    def _one(self, query, key, value, scale, window):
        scores = torch.einsum("ihd,jhd->hij", query.double(), key.double())
        scores = scores * (query.shape[2] ** -0.5 if scale is None else scale)
        if window == CAUSAL:
            late = 0 if self.first else len(key) - len(query)
            for i in range(len(query)):
                scores[:, i, i + late + 1 :] = -torch.inf
        return torch.einsum("hij,jhd->ihd", scores.softmax(-1), value.double())
