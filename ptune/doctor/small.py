"""A small random model of a family, from a config alone: no weights are read.

    small_backbone("google/gemma-2-9b")       # 2 layers of 64 numbers, windows of 8 tokens

Every width that a config has is set small in the same way, so that what divides what stays so:
queries by key/value heads, experts by groups, kinds of layers by their pattern. What a config has
beside is left; where that makes no model, only the layers are cut.
"""

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from ptune.backbone import Backbone
from ptune.demo import resolve
from ptune.errors import BackboneError
from ptune.loading import cannot_load

HIDDEN, HEADS, HEAD, FORWARD, VOCABULARY, WINDOW, TOKENS = 64, 4, 16, 96, 256, 8, 128
LAYERS = 2
# What a model made from a config may have, in numbers: it is to be tried in seconds.
MOST_PARAMETERS = 300_000_000

# Names of widths in configs -> what they become. Only those that a config has, and as numbers.
WIDTHS: Mapping[str, int] = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "head_dim": HEAD,
    "global_head_dim": HEAD,
    "attention_head_size": HEAD,
    "intermediate_size": FORWARD,
    "moe_intermediate_size": FORWARD,
    "shared_expert_intermediate_size": FORWARD,
    "ffn_dim": FORWARD,
    "ffn_hidden_size": FORWARD,
    "encoder_ffn_dim": FORWARD,
    "decoder_ffn_dim": FORWARD,
    "d_ff": FORWARD,
    "decoder_attention_heads": HEADS,
    "decoder_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "hidden_dim": FORWARD,
    "block_ff_dim": FORWARD,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": HEAD,
    "q_lora_rank": HEAD,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "rotary_dim": 8,
    "query_pre_attn_scalar": HEAD,
    "laurel_rank": 4,
    "position_buckets": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": HEAD,
    "mamba_n_groups": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": HEAD,
    "linear_value_head_dim": HEAD,
}
WINDOWS = ("sliding_window", "local_attention", "window_size")
SPECIAL = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


class Ids:
    """What stands for a tokenizer where there is only a config: special ids, and no words."""

    def __init__(self, config: Any) -> None:
        self.pad_token_id = getattr(config, "pad_token_id", None)
        end = getattr(config, "eos_token_id", None)
        self.eos_token_id = end[0] if isinstance(end, list) else end
        self.all_special_ids = [i for i in (self.pad_token_id, self.eos_token_id) if i is not None]
        self.model_max_length = None
        self.special_tokens_map: dict[str, str] = {}

    def get_vocab(self) -> dict[str, int]:
        """No words."""
        return {}


def small_backbone(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False, seed: int = 0
) -> Backbone:
    """Make a small random backbone of a model's family.

    Args:
        source: hub name or folder; only its config is read.
        seed: of the random weights.
    Raises:
        BackboneError: the config is not found, or no model can be made of it.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(resolve(source), **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise cannot_load(source, trust_remote_code, error) from error
    made = model_of(config, source, trust_remote_code=trust_remote_code, seed=seed)
    return Backbone.load(made, tokenizer=Ids(made.config))


def model_of(config: Any, name: str, *, trust_remote_code: bool = False, seed: int = 0) -> Any:
    """A small random model for a config: the first of the ways to cut it that gives a model."""
    said = ""
    for cut in (_small, _fewer_layers):
        try:
            text = type(config.get_text_config())(**cut(config.get_text_config()))
            _check_size(text)
            model = _made(text, seed, trust_remote_code)
            ids = torch.arange(3, 9)[None]
            with torch.no_grad():
                model(input_ids=ids, **({"decoder_input_ids": ids} if _two_sided(text) else {}))
        except Exception as error:  # a model's own code may raise anything on numbers not its own
            said = said or (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:
            model.config.name_or_path = f"{name}, small and random"
            if _two_sided(text) and getattr(text, "decoder_start_token_id", None) is None:
                model.config.decoder_start_token_id = text.pad_token_id or 0  # as T5's files say
            return model
    raise BackboneError(
        f'No small model can be made of the config of "{name}": {said}. '
        "Examine the model itself: leave --config out."
    )


def _check_size(config: Any) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in _class_of(config).from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"even with {LAYERS} layers it has {count:,} parameters")


def _made(config: Any, seed: int, trust_remote_code: bool) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _class_of(config).from_config(config, trust_remote_code=trust_remote_code)
    model = made.float().eval()
    _spread(model, seed)
    return model


def _two_sided(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def _class_of(config: Any) -> Any:
    kinds: list[Any] = [transformers.AutoModelForCausalLM, transformers.AutoModelForMaskedLM]
    # BART's config has a decoder's model, too.
    for kind in [transformers.AutoModelForSeq2SeqLM] if _two_sided(config) else kinds:
        if type(config) in kind._model_mapping:
            return kind
    return transformers.AutoModel


@torch.no_grad()
def _spread(model: Any, seed: int) -> None:
    """Widen the matrices: a fresh model's numbers are so small that all words are alike to it."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn * max(0.5 * weight.shape[-1] ** -0.5, 0.05))


def _small(config: Any) -> dict[str, Any]:
    """The config's numbers, each width made small, and only as many layers as it has kinds."""
    said = config.to_dict()
    names = getattr(config, "attribute_map", {})
    known = {key: said[names.get(key, key)] for key in _KEYS if names.get(key, key) in said}
    changes = {key: value for key, value in WIDTHS.items() if isinstance(known.get(key), int)}
    changes |= {key: WINDOW for key in WINDOWS if isinstance(known.get(key), int)}
    changes |= _like_another(known) | _special(known)
    if isinstance(known.get("intermediate_size"), list):  # one a layer (Gemma 3n)
        changes["intermediate_size"] = FORWARD
    if isinstance(known.get("max_position_embeddings"), int):
        changes["max_position_embeddings"] = min(known["max_position_embeddings"], TOKENS)
    return _with_few_layers(said | {names.get(k, k): v for k, v in changes.items()}, config)


def _like_another(known: Mapping[str, Any]) -> dict[str, int]:
    """Widths that may be another width, or be smaller."""
    pairs = {
        "num_key_value_heads": ("num_attention_heads", HEADS, 2),
        "num_kv_heads": ("num_attention_heads", HEADS, 2),
        "num_global_key_value_heads": ("num_attention_heads", HEADS, 2),
        "embedding_size": ("hidden_size", HIDDEN, HIDDEN // 2),
        "word_embed_proj_dim": ("hidden_size", HIDDEN, HIDDEN // 2),
        # Multi-head latent attention says the width of its rotated part twice.
        "head_dim": ("qk_rope_head_dim", 8, HEAD),
    }
    return {
        key: same if known[key] == known.get(other) else min(known[key], smaller)
        for key, (other, same, smaller) in pairs.items()
        if isinstance(known.get(key), int)
    }


def _special(known: Mapping[str, Any]) -> dict[str, int]:
    """Ids of special tokens, moved into the small vocabulary where they lie outside."""
    found = {key: known.get(key) for key in SPECIAL}
    firsts = {k: v[0] if isinstance(v, list) and v else v for k, v in found.items()}
    return {
        key: value if value < VOCABULARY else number
        for number, (key, value) in enumerate(firsts.items())
        if isinstance(value, int)
    }


_KEYS = {
    *WIDTHS,
    *WINDOWS,
    *SPECIAL,
    "num_key_value_heads",
    "num_kv_heads",
    "num_global_key_value_heads",
    "embedding_size",
    "word_embed_proj_dim",
    "max_position_embeddings",
}


def _fewer_layers(config: Any) -> dict[str, Any]:
    """The config's numbers, only its layers cut."""
    return _with_few_layers(config.to_dict(), config)


def _with_few_layers(said: dict[str, Any], config: Any) -> dict[str, Any]:
    """As many layers as there are kinds of them, and lists by layer cut to these."""
    names = getattr(config, "attribute_map", {})
    count_name = names.get("num_hidden_layers", "num_hidden_layers")
    before, count = said.get(count_name), LAYERS
    kinds = said.get("layer_types")
    kept: dict[str, Any] = {}
    if kinds:
        own = list(dict.fromkeys(kinds))
        kept["layer_types"] = own if len(own) > 1 else own * LAYERS
        count = len(kept["layer_types"])
    cut = {k: v[:count] for k, v in said.items() if isinstance(v, list) and len(v) == before}
    return said | cut | _patterns(said) | kept | {count_name: count}


def _patterns(said: Mapping[str, Any]) -> dict[str, Any]:
    """What says in other ways which layer is of which kind, for two layers."""
    known: dict[str, Any] = {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "attn_layer_indices": [1],
        "attention_types": [[["global", "local"], 1]],
        "attention_layers": ["global", "local"],
        "num_kv_shared_layers": 0,
    }
    found = {key: value for key, value in known.items() if key in said}
    # Made by the config from the others, for layers that are gone.
    return found | {key: None for key in ("per_layer_config",) if key in said}
