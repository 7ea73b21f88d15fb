"""Tiny random models and a word-level tokenizer, made in a moment and the same every time."""

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from ptune.backbone import Backbone

WORDS = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    "[MASK]",
    "yes",
    "no",
    "complaint",
    "the",
    "a",
    "my",
    "parcel",
    "is",
    "late",
    "thank",
    "you",
    "where",
    "question",
    "answer",
    ":",
    "?",
    ".",
    ",",
    "good",
    "bad",
    "film",
    "very",
    "not",
    "label",
    "text",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
]
VOCABULARY = 96


def tokenizer():
    words = {word: index for index, word in enumerate(WORDS)}
    model = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


SMALL = dict(  # noqa: C408
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=3,
    initializer_range=0.3,
)
DECODERS = {
    "llama": lambda: hf.LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral-window-4": lambda: hf.MistralConfig(
        **SMALL, num_key_value_heads=2, sliding_window=4, head_dim=8
    ),
    "gemma2-window-4": lambda: hf.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=8, sliding_window=4, query_pre_attn_scalar=8
    ),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=64,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.3,
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SMALL),
    "opt": lambda: hf.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        init_std=0.3,
        do_layer_norm_before=False,
    ),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        n_layer=3,
        n_head=4,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.3,
    ),
}
ENCODERS = {
    "bert": lambda: hf.BertConfig(**SMALL),
    "roberta": lambda: hf.RobertaConfig(**SMALL | {"max_position_embeddings": 66}),
    "electra": lambda: hf.ElectraConfig(**SMALL, embedding_size=16),
    "albert": lambda: hf.AlbertConfig(**SMALL, embedding_size=16),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.3,
    ),
    "modernbert-window": lambda: hf.ModernBertConfig(
        **SMALL | {"num_hidden_layers": 4},
        cls_token_id=2,
        sep_token_id=3,
        local_attention=6,
        global_attn_every_n_layers=2,
    ),
}
ALL = DECODERS | ENCODERS


def model(name, seed=0):
    torch.manual_seed(seed)
    config = ALL[name]()
    kind = hf.AutoModelForCausalLM if name in DECODERS else hf.AutoModelForMaskedLM
    return kind.from_config(config).float().eval()


def backbone(name="llama", seed=0):
    return Backbone.load(model(name, seed), tokenizer=tokenizer())
