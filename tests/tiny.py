"""Tiny random models and a word-level tokenizer, made in a moment and the same every time."""

from inspect import signature

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

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
# What a model's forward calls keys and values that are kept; the second before transformers 5.24.
CACHE = "cache" if "cache" in signature(hf.LlamaModel.forward).parameters else "past_key_values"


def tokenizer():
    words = {word: index for index, word in enumerate(WORDS)}
    model = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


def pair_tokenizer():
    """As BERT's: <s> first </s> second </s>, the second text in a segment of its own."""
    made = tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 2), ("</s>", 3)],
    )
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return made


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

# Keys of all heads together are narrower than the states; the two sides differ in depth.
T5 = dict(  # noqa: C408
    vocab_size=VOCABULARY,
    d_model=32,
    d_kv=6,
    d_ff=48,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=10,
    pad_token_id=0,
    eos_token_id=3,
    decoder_start_token_id=0,
)
BART = dict(  # noqa: C408
    vocab_size=VOCABULARY,
    d_model=32,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=3,
    decoder_start_token_id=3,
    forced_eos_token_id=3,
    forced_bos_token_id=2,
    scale_embedding=True,
    init_std=0.3,
)
ENCODER_DECODERS = {
    "t5": lambda: hf.T5Config(**T5),
    "t5-gated": lambda: hf.T5Config(
        **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "t5-untied": lambda: hf.T5Config(**T5),
    "mt5": lambda: hf.MT5Config(**T5),
    "bart": lambda: hf.BartConfig(**BART),
    "mbart": lambda: hf.MBartConfig(**BART),
    "pegasus": lambda: hf.PegasusConfig(**BART),
    "marian": lambda: hf.MarianConfig(**BART),
}


def model(name, seed=0):
    torch.manual_seed(seed)
    config = (ALL | ENCODER_DECODERS)[name]()
    kind = hf.AutoModelForCausalLM if name in DECODERS else hf.AutoModelForMaskedLM
    if name in ENCODER_DECODERS:
        kind = hf.AutoModelForSeq2SeqLM
    made = kind.from_config(config).float().eval()
    if name == "t5-untied":
        made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight))
    return made


def backbone(name="llama", seed=0):
    return Backbone.load(model(name, seed), tokenizer=tokenizer())
