"""A slow, independent attention: one query at a time, keys of the prompt simply concatenated.

Runs one unpadded sequence through a model's own forward. Shares no code with ptune.
"""

import math

import torch
from transformers.modeling_utils import AttentionInterface


class NaiveAttention:
    """Registers itself with transformers under "naive" for the time of a `with`."""

    def __init__(self, model, deep):
        self.model, self.deep, self.layer = model, deep, 0

    def __enter__(self):
        AttentionInterface.register("naive", self)
        self.before = self.model.config._attn_implementation
        self.model.config._attn_implementation = "naive"
        return self

    def __exit__(self, *error):
        self.model.config._attn_implementation = self.before

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        prompt = self.deep.get(self.layer)
        self.layer += 1
        heads, tokens = query.shape[1], query.shape[2]
        repeat = heads // key.shape[1]
        window, softcap = kwargs.get("sliding_window"), kwargs.get("softcap")
        causal = kwargs.get("is_causal")
        causal = module.is_causal if causal is None else causal
        out = torch.zeros(1, tokens, heads, value.shape[-1], dtype=query.dtype)
        for h in range(heads):
            for i in range(tokens):
                keys, values = [], []
                if prompt is not None:
                    keys += list(prompt[0][:, h // repeat])
                    values += list(prompt[1][:, h // repeat])
                for j in range(tokens):
                    if causal and j > i:
                        continue
                    if window is not None and abs(i - j) >= window:
                        continue
                    keys.append(key[0, h // repeat, j])
                    values.append(value[0, h // repeat, j])
                scores = (
                    torch.stack(keys) @ query[0, h, i] * (scaling or 1 / math.sqrt(query.shape[-1]))
                )
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                out[0, i, h] = torch.softmax(scores, 0) @ torch.stack(values)
        return out, None
