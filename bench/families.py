"""The families of docs/architectures.md: for each a tiny random model, made from a config alone.

    body = make("falcon")                 # 3 layers, hidden 32 or 64, numbers drawn from one seed

Only shapes stand here. What works with a family is found by running it (`architectures.py`).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

VOCABULARY = 96

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.3,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
# The attention kinds of a model that slides in every second layer.
SLIDING: dict[str, Any] = {
    "sliding_window": 4,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
# Families from before the common names: heads and layers under names of their own.
OLD: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}

Config = Callable[[], Any]


def _small(name: str, base: dict[str, Any] = GROUPED, **more: Any) -> Config:
    return lambda: getattr(hf, name)(**copy.deepcopy(base | more))


DECODERS: dict[str, Config] = {
    "gpt2": _small("GPT2Config", OLD),
    "gpt_neo": _small(
        "GPTNeoConfig",
        SMALL,
        num_layers=3,
        num_heads=4,
        window_size=4,
        attention_types=[[["global", "local", "global"], 1]],
    ),
    "gpt_neox": _small("GPTNeoXConfig", SMALL),
    "gptj": _small("GPTJConfig", OLD, rotary_dim=4),
    "codegen": _small("CodeGenConfig", OLD, n_ctx=64, rotary_dim=4),
    "gpt_bigcode": _small("GPTBigCodeConfig", OLD, multi_query=True),
    "bloom": _small("BloomConfig", SMALL, n_layer=3, n_head=4),
    "opt (projected)": _small(
        "OPTConfig",
        SMALL,
        ffn_dim=48,
        word_embed_proj_dim=16,
        init_std=0.3,
        do_layer_norm_before=False,
    ),
    "llama": _small("LlamaConfig"),
    "mistral (window)": _small("MistralConfig", sliding_window=4, head_dim=8),
    "qwen2": _small("Qwen2Config"),
    "qwen3": _small("Qwen3Config", head_dim=16),
    "gemma": _small("GemmaConfig", head_dim=8),
    "gemma2 (window)": _small(
        "Gemma2Config", head_dim=8, sliding_window=4, query_pre_attn_scalar=8
    ),
    "gemma3 (text, window)": _small(
        "Gemma3TextConfig",
        head_dim=8,
        query_pre_attn_scalar=8,
        **SLIDING,
    ),
    "gemma3n (text)": _small(
        "Gemma3nTextConfig",
        head_dim=8,
        **SLIDING,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=2,
        activation_sparsity_pattern=[0.0] * 4,
        altup_num_inputs=2,
        intermediate_size=[48] * 4,
    ),
    "gemma4 (text)": _small(
        "Gemma4TextConfig",
        head_dim=8,
        global_head_dim=8,
        **SLIDING,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
    ),
    "phi": _small("PhiConfig", SMALL),
    "phi3": _small("Phi3Config"),
    "olmo2": _small("Olmo2Config"),
    "cohere2 (window)": _small("Cohere2Config", **SLIDING),
    "granite": _small("GraniteConfig"),
    "glm4": _small("Glm4Config", head_dim=8),
    "smollm3": _small("SmolLM3Config"),
    "starcoder2": _small("Starcoder2Config", sliding_window=None),
    "stablelm": _small("StableLmConfig"),
    "mixtral": _small("MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": _small("Qwen3MoeConfig", EXPERTS, num_experts=4, head_dim=8),
    "gpt_oss (window)": _small(
        "GptOssConfig",
        num_local_experts=4,
        num_experts_per_tok=2,
        head_dim=8,
        **SLIDING,
    ),
    "deepseek_v3 (MLA)": _small(
        "DeepseekV3Config",
        SMALL,
        num_key_value_heads=4,
        moe_intermediate_size=24,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=1,
    ),
    "falcon (rotary, multi-query)": _small(
        "FalconConfig",
        SMALL,
        multi_query=True,
        new_decoder_architecture=False,
        alibi=False,
        bias=False,
        parallel_attn=True,
    ),
    "falcon (new, grouped)": _small(
        "FalconConfig",
        SMALL,
        num_kv_heads=2,
        new_decoder_architecture=True,
        alibi=False,
        bias=False,
    ),
    "falcon (ALiBi)": _small(
        "FalconConfig",
        SMALL,
        multi_query=False,
        new_decoder_architecture=False,
        alibi=True,
        bias=True,
        parallel_attn=False,
    ),
    "mpt": _small(
        "MptConfig",
        {k: v for k, v in SMALL.items() if "_" in k},
        d_model=32,
        n_heads=4,
        n_layers=3,
        max_seq_len=64,
        expansion_ratio=2,
    ),
    "mamba": _small("MambaConfig", SMALL, state_size=8),
    "mamba2": _small("Mamba2Config", SMALL, state_size=8, num_heads=8, head_dim=8, n_groups=1),
    "qwen3_next (hybrid)": _small(
        "Qwen3NextConfig",
        EXPERTS,
        num_experts=4,
        shared_expert_intermediate_size=24,
        head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "jamba (hybrid)": _small(
        "JambaConfig",
        num_experts=2,
        num_experts_per_tok=1,
        mamba_d_state=8,
        mamba_expand=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        use_mamba_kernels=False,
    ),
    "bamba (hybrid)": _small(
        "BambaConfig",
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_expand=2,
    ),
    "lfm2 (hybrid)": _small(
        "Lfm2Config",
        layer_types=["conv", "full_attention", "conv"],
        block_ff_dim=48,
        block_multiple_of=8,
    ),
}
ENCODERS: dict[str, Config] = {
    "bert": _small("BertConfig", SMALL),
    "roberta": _small("RobertaConfig", SMALL, max_position_embeddings=66, pad_token_id=1),
    "xlm-roberta": _small("XLMRobertaConfig", SMALL, max_position_embeddings=66, pad_token_id=1),
    "electra (small embeddings)": _small("ElectraConfig", SMALL, embedding_size=16),
    "albert (small embeddings)": _small("AlbertConfig", SMALL, embedding_size=16),
    "distilbert": _small(
        "DistilBertConfig",
        SMALL,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=48,
    ),
    "deberta": _small(
        "DebertaConfig",
        SMALL,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        max_relative_positions=-1,
        position_biased_input=False,
    ),
    "deberta-v2": _small(
        "DebertaV2Config",
        SMALL,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        conv_kernel_size=3,
        conv_act="gelu",
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_buckets=8,
        max_relative_positions=-1,
        position_biased_input=False,
    ),
    "deberta-v3": _small(
        "DebertaV2Config",
        SMALL,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_buckets=8,
        max_relative_positions=-1,
        position_biased_input=False,
    ),
    "modernbert (window)": _small(
        "ModernBertConfig",
        SMALL,
        num_hidden_layers=4,
        cls_token_id=2,
        sep_token_id=3,
        local_attention=6,
        global_attn_every_n_layers=2,
    ),
    "mpnet": _small("MPNetConfig", SMALL, max_position_embeddings=66, pad_token_id=1),
}
# Without a class with a head that transformers' mask- or next-word models know.
BODIES: dict[str, Config] = {
    "xlnet": _small(
        "XLNetConfig",
        {"vocab_size": VOCABULARY, "pad_token_id": 0},
        d_model=32,
        n_layer=3,
        n_head=4,
        d_inner=48,
    ),
}
# Encoder-decoders. As published: all heads together are as wide as the states in T5, and narrower
# in T5 v1.1 and mT5 (their small ones).
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "init_std": 0.3,
}
TWO_SIDED: dict[str, Config] = {
    "t5": _small("T5Config", T5),
    "t5 (v1.1, gated)": _small(
        "T5Config", T5, d_kv=6, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "mt5": _small("MT5Config", T5, d_kv=6),
    "bart": _small("BartConfig", BART),
    "mbart": _small("MBartConfig", BART, scale_embedding=True),
    "pegasus": _small("PegasusConfig", BART, scale_embedding=True),
    "marian": _small("MarianConfig", BART, scale_embedding=True),
}
FAMILIES = DECODERS | ENCODERS | BODIES | TWO_SIDED


def make(name: str, seed: int = 0) -> Any:
    """The tiny model of a family, with its language-model head."""
    torch.manual_seed(seed)
    kind = hf.AutoModelForCausalLM
    if name not in DECODERS:
        kind = hf.AutoModelForMaskedLM if name in ENCODERS else hf.AutoModel
    if name in TWO_SIDED:
        kind = hf.AutoModelForSeq2SeqLM
    return kind.from_config(FAMILIES[name]()).float().eval()
