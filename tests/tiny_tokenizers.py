"""Six kinds of tokenizers, trained in a moment, each like a known one in how it treats spaces."""

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as dec
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from ptune.template import Template

CORPUS = [
    "It was so dull that the tweet had no reply for three days .",
    "Question : is the answer yes or no ? Answer : great , really .",
    "Label complaint text no complaint terrible Review: film!",
    "Review:\n\nyes\n\nno ,,no Review:\n yes Answer:\n no",
] * 3


def wordpiece():
    """Like BERT's: spaces are not written, two texts are told apart by segments."""
    raw = Tokenizer(WordPiece(unk_token="[UNK]"))
    raw.normalizer = norm.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(CORPUS, WordPieceTrainer(vocab_size=200, special_tokens=specials))
    raw.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return wrapped(
        raw,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_level():
    """Like GPT-2's: a space belongs to the word behind it; no special tokens."""
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    train_bytes(raw, ["<|endoftext|>"])
    return wrapped(raw, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def newline_bytes():
    """Like Llama 3's: new lines belong to the punctuation before them."""
    raw = Tokenizer(BPE())
    words = Regex(r" ?[^\s\p{L}\p{N}]+[\r\n]*|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|\s*[\r\n]+|\s+")
    raw.pre_tokenizer = pre.Sequence(
        [pre.Split(words, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    train_bytes(raw, [])
    return wrapped(raw)


def roberta():
    """Like RoBERTa's: bytes, two separators between two texts, a mask that swallows a space."""
    mask = AddedToken("<mask>", lstrip=True, special=True)
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    train_bytes(raw, ["<s>", "</s>", mask])
    raw.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return wrapped(raw, bos_token="<s>", eos_token="</s>", mask_token=mask)


def unigram():
    """Like XLM-R's and T5's: a space is put in front of everything that the tokenizer is given."""
    raw = Tokenizer(Unigram())
    raw.pre_tokenizer = pre.Metaspace()
    raw.decoder = dec.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=120,
        special_tokens=["<s>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        initial_alphabet=["\n"],  # known, or it would melt with an unknown character beside it
    )
    raw.train_from_iterator(CORPUS, trainer)
    raw.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return wrapped(raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>")


def prefixing_bpe():
    """Like Llama 2's: a space in front of every text, bytes for what is unknown, begin token."""
    raw = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre.Sequence([pre.Split("\n", "isolated"), pre.Metaspace()])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(CORPUS, BpeTrainer(vocab_size=500, special_tokens=specials))
    # As SentencePiece does: words and lines are told apart while training, and only then.
    raw.pre_tokenizer = None
    raw.normalizer = norm.Sequence([norm.Prepend("▁"), norm.Replace(" ", "▁")])
    raw.decoder = dec.Sequence(
        [dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse(), dec.Strip(" ", 1, 0)]
    )
    raw.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return wrapped(raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def train_bytes(raw, specials):
    raw.decoder = dec.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet)
    raw.train_from_iterator(CORPUS, trainer)


def wrapped(raw, **names):
    # Eight: nearly every text of the tests is long enough for a warning, which there must not be.
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=8, **names)


KINDS = {
    make.__name__: make
    for make in (wordpiece, byte_level, newline_bytes, roberta, unigram, prefixing_bpe)
}


@cache
def tokenizer_of(kind):
    return KINDS[kind]()


def bind(source, kind="byte_level", max_tokens=512, **more):
    return Template.parse(source).bind(tokenizer_of(kind), max_tokens=max_tokens, **more)


def render(layout, **row):
    return layout.render([row])[0]


def tokens(kind, ids):
    """Tokens as strings; virtual token s as `[s]`."""
    shown = tokenizer_of(kind).convert_ids_to_tokens
    return [f"[{-1 - token}]" if token < 0 else shown(token) for token in ids]
