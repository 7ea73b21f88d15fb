"""P@1, P@10 and MRR by walking down the sorted logits of one fact after another.

As the code of P-tuning's LAMA folder does it: the best token is looked at first, tokens that are
not on the list are passed over, and the place at which the right one is met is its rank. No ptune.
"""

import torch


def rank_of(logits, right, allowed=None):
    """Place of `right` among the allowed tokens, from 1."""
    place = 0
    for token in sorted(range(len(logits)), key=lambda token: (-logits[token], token)):
        if allowed is not None and token not in allowed:
            continue
        place += 1
        if token == right:
            return place
    raise AssertionError("the right token is not allowed")


def scores(all_logits, rights, allowed=None):
    hits_1 = hits_10 = reciprocal = 0.0
    for logits, right in zip(all_logits, rights, strict=True):
        rank = rank_of(logits, right, allowed)
        hits_1 += 1.0 if rank == 1 else 0.0
        hits_10 += 1.0 if rank < 11 else 0.0
        reciprocal += 1.0 / rank
    count = len(rights)
    return {"p_at_1": hits_1 / count, "p_at_10": hits_10 / count, "mrr": reciprocal / count}


@torch.no_grad()
def next_token_logits(model, ids, vectors=None):
    """Logits behind a row; id `-1 - s` stands for `vectors[s]`."""
    table = model.get_input_embeddings().weight
    embedded = torch.stack([table[i] if i >= 0 else vectors[-1 - i] for i in ids])
    return model(inputs_embeds=embedded[None]).logits[0, -1].tolist()


@torch.no_grad()
def mask_logits(model, ids, at, vectors=None):
    """Logits at one place of a row."""
    table = model.get_input_embeddings().weight
    embedded = torch.stack([table[i] if i >= 0 else vectors[-1 - i] for i in ids])
    return model(inputs_embeds=embedded[None]).logits[0, at].tolist()
