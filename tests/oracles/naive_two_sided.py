"""Slow, independent passes over an encoder-decoder: one row, attention one query at a time.

The model's own forward runs with a naive attention in place of its own: the keys of a prompt are
simply concatenated, and T5's bias is made here from the buckets' definition. Shares no code with
ptune.
"""

import math
from contextlib import contextmanager

import torch
from transformers.modeling_utils import AttentionInterface

KINDS = ("encoder", "decoder", "cross")


class NaiveTwoSided:
    """Registers itself with transformers under "naive" for the time of a `with`.

    Args:
        deep: by kind of attention, one (keys, values) a layer, or None.
        begins: the decoder's text begins at this position, and its prompt's keys stand before it.
    """

    def __init__(self, model, deep=None, begins=0):
        self.model, self.deep, self.begins = model, deep or {}, begins
        self.calls = dict.fromkeys(KINDS, 0)
        self.decoding = set(model.get_decoder().modules())

    def __enter__(self):
        AttentionInterface.register("naive", self)
        configs = {id(c): c for m in self.model.modules() if (c := getattr(m, "config", None))}
        self.before = [(c, c._attn_implementation) for c in configs.values()]
        for config, _ in self.before:
            config._attn_implementation = "naive"
        return self

    def __exit__(self, *error):
        for config, name in self.before:
            config._attn_implementation = name

    def kind(self, module, name):
        if module not in self.decoding:
            return "encoder"
        return "cross" if "encoder_attn" in name or "EncDec" in name else "decoder"

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        name = next(n for n, m in self.model.named_modules() if m is module)
        kind = self.kind(module, name)
        layer = self.calls[kind]
        self.calls[kind] += 1
        prompt = self.deep[kind][layer] if kind in self.deep else None
        bias = self.bias(kind) if kind != "cross" else None
        heads, tokens = query.shape[1], query.shape[2]
        out = torch.zeros(1, tokens, heads, value.shape[-1])
        for h in range(heads):
            for i in range(tokens):
                seen = range(i + 1) if kind == "decoder" else range(key.shape[2])
                keys = [key[0, h, j] for j in seen]
                values = [value[0, h, j] for j in seen]
                extra = [bias(h, j - i) if bias else 0.0 for j in seen]
                if prompt is not None:
                    keys, values = [*prompt[0][:, h], *keys], [*prompt[1][:, h], *values]
                    slots = len(prompt[0])
                    placed = bias and self.begins and kind == "decoder"
                    front = [bias(h, s - self.begins - i) if placed else 0.0 for s in range(slots)]
                    extra = front + extra
                scores = torch.stack(keys) @ query[0, h, i]
                scores = scores * (scaling or 1 / math.sqrt(query.shape[-1])) + torch.tensor(extra)
                out[0, i, h] = torch.softmax(scores, 0) @ torch.stack(values)
        return out, None

    def bias(self, kind):
        """T5's bias of one head for a key so many tokens further on; None for other models."""
        side = self.model.get_decoder() if kind == "decoder" else self.model.get_encoder()
        if not hasattr(side, "block"):
            return None
        table = side.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        buckets, farthest = (
            side.config.relative_attention_num_buckets,
            side.config.relative_attention_max_distance,
        )

        def of(head, ahead):
            return float(table[bucket(ahead, buckets, farthest, both=kind == "encoder"), head])

        return of


def bucket(ahead, buckets, farthest, *, both):
    """The bucket of a distance: exact while near, then logarithmic (arXiv:1910.10683, 2.1)."""
    start = 0
    if both:
        buckets //= 2
        start = buckets if ahead > 0 else 0
        distance = abs(ahead)
    else:
        distance = max(-ahead, 0)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    grown = math.log(distance / exact) / math.log(farthest / exact) * (buckets - exact)
    return start + min(exact + int(grown), buckets - 1)


def decoder_states(model, ids, decoded, deep=None, vectors=None, begins=0):
    """Final states of the decoder for one row; id `-1 - s` is the vector `s`."""
    with torch.no_grad(), NaiveTwoSided(model, deep, begins):
        encoder, decoder = model.get_encoder(), model.get_decoder()
        with embedded(encoder, ids, vectors) as plain:
            states = encoder(input_ids=plain).last_hidden_state
        with embedded(decoder, decoded, vectors) as plain, further_on(decoder, begins):
            out = decoder(input_ids=plain, encoder_hidden_states=states, use_cache=False)
    return out.last_hidden_state[0]


@contextmanager
def embedded(side, ids, vectors):
    """Ordinary ids, under which the embedding gives the vectors where the ids are virtual."""
    module = side.get_input_embeddings()
    plain = torch.tensor([[id if id >= 0 else 1 for id in ids]])
    table = module(plain).clone()
    for at, id in enumerate(ids):
        if id < 0:
            table[0, at] = vectors[-1 - id]
    handle = module.register_forward_hook(lambda *_: table)
    try:
        yield plain
    finally:
        handle.remove()


@contextmanager
def further_on(decoder, by):
    """Rows of the table of positions, so many further on; models with a bias have no table."""
    table = getattr(decoder, "embed_positions", None)
    if table is None or not by:
        yield
        return
    before = table.weight.data
    table.weight.data = before.roll(-by, 0)
    try:
        yield
    finally:
        table.weight.data = before
