"""Shims: families whose attention does not go through transformers' attention interface.

A shim is a function that stands in for a method of a module while prompts are injected. That of an
attention module hands queries, keys and values to ptune's attention; another one computes the same
as the module, faster; that of an embedding of positions counts within each row of a pack. Beside
them stand families of which something else must be known. This folder is the only place in ptune
that names a model family.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from ptune.inject.forwards import replace_forward, replace_method
from ptune.inject.shims import bart, bloom, deberta, falcon, inner, mpnet, mpt, nllb, t5

StandIn = Callable[..., object]

# Embeddings of positions that count the tokens of a line.
_COUNTED = (
    "BartLearnedPositionalEmbedding",
    "BlenderbotLearnedPositionalEmbedding",
    "BlenderbotSmallLearnedPositionalEmbedding",
    "MBartLearnedPositionalEmbedding",
    "MarianSinusoidalPositionalEmbedding",
    "PLBartLearnedPositionalEmbedding",
    "PegasusSinusoidalPositionalEmbedding",
)

# Class of the module -> name of its method -> the stand-in.
STAND_INS: dict[str, dict[str, StandIn]] = {
    **{name: {"forward": bart.positions} for name in _COUNTED},
    "BloomAttention": {"forward": bloom.forward},
    "BloomGelu": {"forward": bloom.gelu},
    "CodeGenAttention": {"_attn": inner.attend},
    "DebertaEncoder": {
        "get_rel_pos": deberta.relative_positions,
        "get_attention_mask": deberta.attention_mask,
    },
    "DebertaV2Encoder": {
        "get_rel_pos": deberta.relative_positions,
        "get_attention_mask": deberta.attention_mask,
    },
    "DisentangledSelfAttention": {"forward": deberta.forward},
    "FalconAttention": {"forward": falcon.forward},
    "GPTJAttention": {"_attn": inner.attend},
    "GPTNeoSelfAttention": {"_attn": inner.attend_locally},
    "MPNetEncoder": {"compute_position_bias": mpnet.position_bias},
    "MPNetSelfAttention": {"forward": mpnet.forward},
    "MptAttention": {"forward": mpt.forward},
    "MT5Attention": {"compute_bias": t5.compute_bias},
    "NllbMoeTop2Router": {"forward": nllb.forward},
    "T5Attention": {"compute_bias": t5.compute_bias},
}

# Bodies whose code does not go on without a mask, though no layer needs one.
WANT_A_MASK = ("MptModel",)

# Modules that look at a whole line outside attention, and what says that they do: ESM-2 makes words
# larger by the share of masks, Switch's experts are full after so many tokens, Llama 4 sharpens
# the attention of late ones.
OF_A_LINE = {
    "EsmEmbeddings": "token_dropout",
    "EvollaSaProtEmbeddings": "token_dropout",
    "Llama4TextAttention": "attn_temperature_tuning",
    "SwitchTransformersTop1Router": "expert_capacity",
}

# Bodies whose cache mixes rows up, in transformers' own `generate` too, and that know no padding.
CONTINUE_ALONE = ("RwkvModel",)

# Modules that change themselves in train mode: I-BERT counts ranges along, Gemma 3n cuts weights
# off, RWKV multiplies them.
CHANGED_BY_TRAINING = ("Gemma3nTextAltUp", "QuantAct", "RwkvModel")

# Attentions that rotate by a table: only differences matter, but no position lies before 0.
COUNT_FROM_ZERO = ("CodeGenAttention", "GPTJAttention")


def install(model: nn.Module, wrap: Callable[[Any], Any]) -> list[Callable[[], None]]:
    """Put the shims in place, each wrapped; returns what undoes it."""
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        for method, shim in STAND_INS.get(type(module).__name__, {}).items():
            stand_in = wrap(MethodType(shim, module))
            if method == "forward":
                undo.append(replace_forward(module, stand_in))
            else:
                undo.append(replace_method(module, method, stand_in))
    return undo


def wants_a_mask(model: nn.Module) -> bool:
    """Whether the model must be given a mask where none is needed."""
    return any(type(module).__name__ in WANT_A_MASK for module in model.modules())


def counts_from_zero(model: nn.Module) -> bool:
    """Whether the model has no positions before the first one."""
    return any(type(module).__name__ in COUNT_FROM_ZERO for module in model.modules())


def looks_at_lines(model: nn.Module) -> bool:
    """Whether each row needs a line of its own, though short ones may come out right without."""
    asked = ((OF_A_LINE.get(type(module).__name__), module) for module in model.modules())
    return any(name is not None and getattr(module, name, False) for name, module in asked)


def changes_in_train_mode(module: nn.Module) -> bool:
    """Whether a module's numbers change when it runs in train mode."""
    return type(module).__name__ in CHANGED_BY_TRAINING


def continues_alone(model: nn.Module) -> bool:
    """Whether `generate` is right for one row at a time only."""
    return any(type(module).__name__ in CONTINUE_ALONE for module in model.modules())
