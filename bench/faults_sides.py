"""The two sides of `peft_faults.py`, and what is right by hand.

Tiny random models; prompts in PEFT and the same numbers in ptune; rows laid side by side as
embeddings and run by the model's own body; an attention written with loops.
"""

import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from common import PROJECT
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

import ptune
from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import EmbeddingEncoder, KeysValues, LSTMEncoder, PrefixEncoder
from ptune.errors import PtuneError
from ptune.heads import ClassificationHead
from ptune.prompt import SoftPrompt
from ptune.run import keys_values_of, run
from ptune.trainable import BackboneWeights, PromptedBackbone, TrainablePrompt

sys.path.append(str(PROJECT / "tests" / "oracles"))

N = 4
LONG, SHORT = (7, 9, 11, 13, 8, 21), (15, 6, 30)
EXACT = 2e-5  # float32 sums in another order
VOCABULARY = 96
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**SMALL, num_key_value_heads=2),
    "mistral": lambda: hf.MistralConfig(
        **SMALL | {"num_hidden_layers": 1}, num_key_value_heads=2, head_dim=8, sliding_window=4
    ),
    "opt": lambda: hf.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=0,
        init_std=0.3,
        word_embed_proj_dim=32,
    ),
    "bert": lambda: hf.BertConfig(**SMALL),
    "electra": lambda: hf.ElectraConfig(**SMALL, embedding_size=16),
    "albert": lambda: hf.AlbertConfig(**SMALL, embedding_size=16),
    "modernbert": lambda: hf.ModernBertConfig(**SMALL, cls_token_id=2, sep_token_id=3),
    "deberta": lambda: hf.DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4
    ),
    "t5": lambda: hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=4,
        num_heads=4,
        decoder_start_token_id=0,
    ),
    "bart": lambda: hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=0,
        decoder_start_token_id=3,
        init_std=0.3,
    ),
}
CLASSES = {
    "CAUSAL_LM": hf.AutoModelForCausalLM,
    "SEQ_CLS": hf.AutoModelForSequenceClassification,
    "TOKEN_CLS": hf.AutoModelForTokenClassification,
    "QUESTION_ANS": hf.AutoModelForQuestionAnswering,
    "SEQ_2_SEQ_LM": hf.AutoModelForSeq2SeqLM,
    "FEATURE_EXTRACTION": hf.AutoModelForMaskedLM,
}
Side = dict[str, Any]


def base(name: str, task: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return CLASSES[task].from_config(CONFIGS[name]()).float().eval()


def wrapped(model: Any, kind: str, task: str, **more: Any) -> Any:
    import peft

    configs = {
        "P": peft.PromptEncoderConfig,
        "PROMPT": peft.PromptTuningConfig,
        "X": peft.PrefixTuningConfig,
    }
    if kind == "P":
        more = {"encoder_hidden_size": 16} | more
    torch.manual_seed(1)
    config = configs[kind](task_type=task, num_virtual_tokens=N, **more)
    return peft.get_peft_model(model, config).eval()


def backbone_of(model: Any) -> Backbone:
    words = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "[MASK]": 4}
    words |= {f"w{i}": i for i in range(5, VOCABULARY)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    return Backbone.load(model, tokenizer=tokenizer)


def vectors_of(made: Any) -> Tensor:
    """The prompt of a model of PEFT's, as numbers."""
    return made.get_prompt(batch_size=1)[0].detach()


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> dict[str, Tensor]:
    width = max(map(len, rows))
    pads = [[0] * (width - len(row)) for row in rows]
    ids = [[*p, *row] if left else [*row, *p] for row, p in zip(rows, pads, strict=True)]
    mask = [
        [0] * len(p) + [1] * len(row) if left else [1] * len(row) + [0] * len(p)
        for row, p in zip(rows, pads, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def alone(model: Any, parts: Sequence[Tensor | Sequence[int]], **more: Any) -> Tensor:
    """Final states of one row by the model's own body: vectors and ids laid side by side."""
    table = model.get_input_embeddings()
    embeds = [p if isinstance(p, Tensor) else table(torch.tensor(p)) for p in parts]
    return model.base_model(inputs_embeds=torch.cat(embeds)[None], **more).last_hidden_state[0]


VIRTUAL = tuple(-1 - slot for slot in range(N))


def ours(
    backbone: Backbone, prompts: Sequence[PromptTensors], rows: Sequence[TokenSequence], read: str
) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = run(backbone, prompts, backbone.pack(rows), read=read)  # type: ignore[call-overload]
    return found


def row(ids: Sequence[int], at: int = -1, prompt: int = 0) -> TokenSequence:
    whole = (*VIRTUAL, *ids)
    return TokenSequence(whole, prompt=prompt, reads=(at % len(whole),))


def differs(found: Tensor, right: Tensor, what: str = "") -> Side:
    worst = float((found - right).abs().max())
    ok = worst < EXACT
    return {"right": ok, "said": f"{what}{'right' if ok else 'wrong'} ({worst:.1e})"}


def raises(call: Callable[[], Any]) -> Side:
    try:
        call()
    except Exception as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:90]
        return {"right": False, "said": f"raises {type(error).__name__}: {text}"}
    return {"right": None, "said": "runs; not compared here"}


def _reason(error: PtuneError) -> str:
    return str(error).split(": ")[1].split(". ")[0]


def both(*sides: Side) -> Side:
    marks = [side["right"] for side in sides]
    right = False if False in marks else None if None in marks else True
    return {"right": right, "said": "; ".join(str(side["said"]) for side in sides)}


def two_prompts(model: Any) -> tuple[Any, list[Tensor]]:
    import peft

    made = wrapped(model, "PROMPT", "CAUSAL_LM")
    torch.manual_seed(4)
    made.add_adapter("other", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N))
    tables = []
    for name in ("default", "other"):
        made.set_adapter(name)
        tables.append(vectors_of(made))
    made.set_adapter("default")
    return made, tables


def behind_a_window() -> tuple[Side, Side]:
    """Token 6 under a window of 4, with the same prefix on both sides and by hand."""
    from naive_attention import NaiveAttention

    model = base("mistral", "CAUSAL_LM")
    made = wrapped(model, "X", "CAUSAL_LM")
    theirs = made(**padded([LONG])).logits[0, -1]
    backbone = backbone_of(model)
    deep = peft_deep(made, backbone)
    last = TokenSequence(LONG, reads=(len(LONG) - 1,))
    found = ours(backbone, [PromptTensors(deep=deep, offset=N)], [last], "logits")[0]
    places = torch.arange(N, N + len(LONG))[None]  # PEFT's text begins behind its prefix
    with NaiveAttention(model, deep):
        states = model.base_model(input_ids=torch.tensor([LONG]), position_ids=places)
    right = model.lm_head(states.last_hidden_state[0, -1])
    what = "prefix, behind a window of 4: "
    return differs(theirs, right, what), differs(found, right, what)


def in_generate() -> tuple[Side, Side]:
    """The first logits of `generate` behind a prompt, the same on both sides and by hand."""
    model = base("llama", "CAUSAL_LM")
    prefix, vectors = (wrapped(base("llama", "CAUSAL_LM"), k, "CAUSAL_LM") for k in "XP")
    deep, table = peft_deep(prefix, backbone_of(model)), vectors_of(vectors)
    forwards = {
        "prefix in generate: ": behind_keys(model, deep),
        "vectors in generate: ": behind_vectors(model, table),
    }

    def beside(*several: Any) -> Side:
        sides = []
        for made, (what, forward) in zip(several, forwards.items(), strict=True):
            out = asked(made.generate, LONG, return_dict_in_generate=True, output_logits=True)
            ids = out.sequences[0].tolist()
            right = [forward(ids[:end]) for end in range(len(LONG), len(ids))]
            sides.append(differs(torch.cat(out.logits), torch.stack(right), what))
        return both(*sides)

    return beside(prefix, vectors), beside(beside_keys("llama", deep), beside_vectors(table))


def peft_deep(made: Any, backbone: Backbone) -> dict[int, KeysValues]:
    """The keys and values of a prefix without projection, site by site."""
    heads, dim, _ = backbone.geometry.sites[0].shape
    table = made.prompt_encoder["default"].embedding.weight.detach()
    parts = table.view(N, len(backbone.geometry.sites), 2, heads, dim)
    return {at: KeysValues(*parts[:, at].unbind(1)) for at in range(parts.shape[1])}


def checkpointed_gradient() -> Side:
    """The gradient of a prefix on BERT, with checkpointing, beside that by loops without."""
    from naive_attention import NaiveAttention

    model = base("bert", "TOKEN_CLS")
    backbone = backbone_of(model)
    leaves = random_deep(backbone)
    tensors = [part.requires_grad_() for pair in leaves.values() for part in pair]
    sequence = TokenSequence(LONG, reads=tuple(range(len(LONG))))
    with torch.enable_grad():
        backbone.gradient_checkpointing = True
        states = ours(backbone, [PromptTensors(deep=leaves)], [sequence], "states")
        found = torch.autograd.grad(model.classifier(states).square().sum(), tensors)
        backbone.gradient_checkpointing = False
        with NaiveAttention(model, leaves):
            logits = model(input_ids=torch.tensor([LONG])).logits
        right = torch.autograd.grad(logits.square().sum(), tensors)
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (found, right)]
    size = float(flat[1].abs().max())
    return differs(flat[0], flat[1], f"largest gradient {size:.1e}, beside that by loops: ")


KINDS = ("encoder", "decoder", "cross")


def two_sided_by_hand(name: str, kinds: Sequence[str]) -> Side:
    """A deep prompt at some kinds of sites of an encoder-decoder, beside loops; its gradient."""
    from naive_two_sided import decoder_states

    model = base(name, "SEQ_2_SEQ_LM")
    backbone = backbone_of(model)
    sites = backbone.geometry.sites
    deep = random_deep(backbone, sites=[at for at, s in enumerate(sites) if s.kind in kinds])
    by_kind = {
        kind: [deep.get(at) for at, s in enumerate(sites) if s.kind == kind] for kind in KINDS
    }
    decoded = (backbone.decoder_start, *SHORT)
    both_sides = TokenSequence(
        LONG, decoder=TokenSequence(decoded, reads=tuple(range(len(decoded))))
    )
    tensors = [part.requires_grad_() for pair in deep.values() for part in pair]
    with torch.enable_grad():
        found = ours(backbone, [PromptTensors(deep=deep)], [both_sides], "states")
        gradients = torch.autograd.grad(found.sin().sum(), tensors)
    dead = float(torch.cat([(one == 0).flatten() for one in gradients]).float().mean())
    side = differs(found.detach(), decoder_states(model, LONG, decoded, by_kind), f"{name}: ")
    said = f"{side['said']}, {100 * dead:.0f} % of the prompt gets no gradient"
    return {"right": side["right"] and dead == 0, "said": said}


def random_deep(backbone: Backbone, sign: int = 1, sites: Sequence[int] | None = None) -> Any:
    torch.manual_seed(5)
    made = {}
    for at, site in enumerate(backbone.geometry.sites):
        heads, key, value = site.shape
        pair = KeysValues(sign * torch.randn(N, heads, key), sign * torch.randn(N, heads, value))
        if sites is None or at in sites:
            made[at] = pair
    return made


PLAIN: dict[str, Any] = {
    "max_new_tokens": 5,
    "min_new_tokens": 5,
    "do_sample": False,
    "pad_token_id": 0,
}
Forward = Callable[[Sequence[int]], Tensor]


def asked(generate: Callable[..., Any], ids: Sequence[int], **more: Any) -> Any:
    """What is generated behind a row."""
    row = torch.tensor([list(ids)])
    return generate(input_ids=row, attention_mask=torch.ones_like(row), **PLAIN, **more)


def behind_vectors(model: Any, table: Tensor) -> Forward:
    """The logits of what follows a row, virtual tokens in front: one plain forward of it all."""
    return lambda ids: model.lm_head(alone(model, [table, ids])[-1])


def behind_keys(model: Any, deep: dict[int, KeysValues]) -> Forward:
    """The same behind a deep prompt, by loops; the text begins behind it, as PEFT's does."""
    from naive_attention import NaiveAttention

    def forward(ids: Sequence[int]) -> Tensor:
        places = torch.arange(N, N + len(ids))[None]
        with NaiveAttention(model, deep):
            return model(input_ids=torch.tensor([list(ids)]), position_ids=places).logits[0, -1]

    return forward


def cached(what: str, generate: Callable[..., Any], forward: Forward) -> Side:
    """Logits without a cache at every step, and from a returned one, beside plain forwards."""
    more = {"return_dict_in_generate": True, "output_logits": True}
    answer = asked(generate, LONG, use_cache=False, **more)
    ids = answer.sequences[0].tolist()
    right = [forward(ids[:end]) for end in range(len(LONG), len(ids))]
    first = asked(generate, LONG, **more)
    longer = [*first.sequences[0].tolist(), *SHORT]
    second = asked(generate, longer, past_key_values=first.past_key_values, **more)
    return both(
        differs(torch.cat(answer.logits), torch.stack(right), f"{what}, no cache: "),
        differs(second.logits[0][0], forward(longer), f"{what}, from a cache: "),
    )


def beside_vectors(table: Tensor) -> PromptedBackbone:
    """Llama behind PEFT's vectors, in ptune."""
    prompt = TrainablePrompt(shallow=EmbeddingEncoder(N, 32, initial=table))
    return PromptedBackbone(backbone_of(base("llama", "CAUSAL_LM")), prompt)


def beside_keys(name: str, deep: dict[int, KeysValues]) -> PromptedBackbone:
    """A decoder behind PEFT's prefix, in ptune."""
    backbone = backbone_of(base(name, "CAUSAL_LM"))
    shapes = [site.shape for site in backbone.geometry.sites]
    prefix = PrefixEncoder(N, shapes, initial=list(deep.values()))
    prompt = TrainablePrompt(deep=prefix, sites=range(len(shapes)), offset=N)
    return PromptedBackbone(backbone, prompt)


class Killed(BaseException):
    """As if the process were gone."""


class Watcher:
    """Remembers the steps of a run, and ends it after some."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.steps = last, list[int]()

    def on_start(self, plan: Any, facts: Any) -> None:
        """The run begins."""

    def on_step(self, step: int, plan: Any, loss: float) -> None:
        """A step is done."""
        self.steps.append(step)
        if step == self.last:
            raise Killed

    def on_scores(self, step: int, plan: Any, scores: Any) -> None:
        """The validation rows were scored."""


def p_tuned(backbone: Backbone, **more: Any) -> SoftPrompt:
    """A few steps of P-tuning through an LSTM, by `ptune.train`."""
    rows = [{"text": f"w{at} w{at + 9}", "label": f"w{40 + at % 2}"} for at in range(5, 15)]
    settings: dict[str, Any] = {
        "method": "p-tuning",
        "encoder": "lstm",
        "template": f"{{soft:{N}}}{{text}} {{label}}",
        "batch_size": 4,
        "max_steps": 6,
    }
    with torch.enable_grad():
        return ptune.train(backbone, rows, **{**settings, **more}).prompt


def kept_prompt() -> Side:
    """A trained prompt in its folder: loaded, and loaded as the start of a run."""
    model = base("llama", "CAUSAL_LM")
    backbone = backbone_of(model)
    with tempfile.TemporaryDirectory() as folder:
        trained = p_tuned(backbone, output=folder)
        right = behind_vectors(model, trained.vectors)(LONG)
        loaded = SoftPrompt.load(Path(folder) / "prompt")
        found = ours(backbone, [loaded.tensors()], [row(LONG)], "logits")[0]
        still = {"max_steps": 1, "lr": 1e-8, "encoder_lr": 1e-8}  # a step that moves nothing
        again = p_tuned(backbone, init=str(Path(folder) / "prompt"), **still)
    return both(
        differs(found, right, "loaded: "),
        differs(behind_vectors(model, again.vectors)(LONG), right, "as the start of a run: "),
    )


def gone_on_with() -> Side:
    """A run that is killed on its way and gone on with, beside one that never stopped."""
    backbone = backbone_of(base("llama", "CAUSAL_LM"))
    first, second = Watcher(last=3), Watcher()
    with tempfile.TemporaryDirectory() as folder:
        whole = p_tuned(backbone, output=Path(folder) / "whole")
        killed = {"output": Path(folder) / "killed", "save_every": 1}
        with suppress(Killed):
            p_tuned(backbone, watcher=first, **killed)
        again = p_tuned(backbone, watcher=second, resume=True, **killed)
    said = f"killed in step {first.steps[-1]}, gone on with at step {second.steps[0]}"
    side = differs(again.vectors, whole.vectors, f"{said} of {second.steps[-1]}: ")
    return {**side, "right": side["right"] and second.steps[0] > 1}


def saved_head() -> Side:
    """A classification prompt on ModernBERT, saved and loaded, on a backbone loaded anew."""
    backbone = backbone_of(base("modernbert", "FEATURE_EXTRACTION"))
    head = ClassificationHead(32, 2)
    nn.init.normal_(head.linear.weight)
    prompt = SoftPrompt(
        template="{soft:4}{text}",
        task="sequence-classification",
        slots=N,
        vectors=torch.randn(N, 32),
        head=head.state_dict(),
        labels=("a", "b"),
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
    )
    states = ours(backbone, [prompt.tensors()], [row(LONG, at=N)], "states")
    right = head(states)
    with tempfile.TemporaryDirectory() as folder:
        prompt.save(Path(folder) / "p")
        again = SoftPrompt.load(Path(folder) / "p")
    fresh = ClassificationHead(32, 2)
    fresh.load_state_dict(dict(again.head))
    other = backbone_of(base("modernbert", "FEATURE_EXTRACTION"))
    found = fresh(ours(other, [again.tensors()], [row(LONG, at=N)], "states"))
    return differs(found, right, "modernbert: ")


def deep_as_by_hand(name: str, sites: Sequence[int] | None = None) -> Side:
    """A deep prompt beside an attention written with loops."""
    from naive_attention import NaiveAttention
    from stand_ins import StandIns

    task = "CAUSAL_LM" if name == "llama" else "FEATURE_EXTRACTION"
    model = base(name, task)
    try:
        backbone = backbone_of(model)
    except PtuneError as error:
        return {"right": None, "said": f"{name}: refused ({_reason(error)})"}
    deep, what = random_deep(backbone, sites=sites), f"{name}: "
    sequence = TokenSequence(LONG, reads=tuple(range(len(LONG))))
    found = ours(backbone, [PromptTensors(deep=deep)], [sequence], "states")
    if name == "deberta":  # it makes its own scores: tokens behind the row stand in
        names = [site.name for site in backbone.geometry.sites]
        made = (("key_proj", "value_proj"), "disentangled_attention_bias")
        return differs(found, StandIns(model.base_model, names, deep, *made).states(LONG), what)
    with NaiveAttention(model, deep) as by_hand:
        right = model.base_model(input_ids=torch.tensor([LONG])).last_hidden_state[0]
    assert by_hand.layer == len(backbone.geometry.sites)
    return differs(found, right, what)


def beside_lora() -> tuple[Side, Side]:
    """A prompt on a LoRA that is to be trained with it: in PEFT which is left to be trained.

    In ptune the gradients of both, beside autograd through the model on rows laid side by side.
    """
    import peft

    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    stacked = peft.get_peft_model(base("llama", "CAUSAL_LM"), lora)
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N)
    parts = dict(peft.get_peft_model(stacked, prompt).named_parameters())
    left = sum(weight.requires_grad for name, weight in parts.items() if "lora_" in name)
    every = sum("lora_" in name for name in parts)
    said = f"a prompt on a LoRA leaves {left} of its {every} matrices to be trained"

    model = peft.inject_adapter_in_model(lora, base("llama", "CAUSAL_LM"))
    right_model = copy.deepcopy(model)
    backbone = backbone_of(model)
    table = torch.randn(N, 32, generator=torch.Generator().manual_seed(8))
    shallow = EmbeddingEncoder(N, 32, initial=table)
    trained = TrainablePrompt(shallow=shallow, backbone=BackboneWeights(backbone, adapters=True))
    with torch.enable_grad():
        found = ours(backbone, [trained.tensors()], [row(LONG), row(SHORT)], "logits")
        found.square().sum().backward()
        leaf = table.clone().requires_grad_()
        states = [alone(right_model, [leaf, ids])[-1] for ids in (LONG, SHORT)]
        right_model.lm_head(torch.stack(states)).square().sum().backward()
    ours_by_name = dict(model.named_parameters())
    pairs = [
        (ours_by_name[name].grad, weight.grad)
        for name, weight in right_model.named_parameters()
        if "lora_" in name
    ]
    vectors = next(shallow.parameters()).grad * shallow.scale
    flat = [torch.cat([one.flatten() for one in side]) for side in zip(*pairs, strict=True)]
    own = [
        differs(part / (size := by_hand.abs().max()), by_hand / size, f"{name} (to {size:.0e}): ")
        for name, part, by_hand in (
            ("LoRA's gradient beside a prompt", *flat),
            ("the prompt's beside LoRA", vectors, leaf.grad),
        )
    ]
    return {"right": left == every, "said": said}, both(*own)


def starts() -> Side:
    """What ptune's encoders give before the first step, beside the text that they start from."""
    generator = torch.Generator().manual_seed(9)
    model = base("llama", "CAUSAL_LM")
    text = model.get_input_embeddings()(torch.tensor(LONG[:N])).detach()
    lstm = LSTMEncoder(N, 32, initial=text, generator=generator)
    backbone = backbone_of(model)
    real = keys_values_of(backbone, LONG[:N]).deep
    shapes = [site.shape for site in backbone.geometry.sites]
    prefix = PrefixEncoder(
        N, shapes, projection=16, initial=list(real.values()), generator=generator
    )
    split = prefix.eval().split(prefix(torch.arange(N)[None])[0])
    found = torch.cat([torch.cat([k.flatten(), v.flatten()]) for k, v in split])
    right = torch.cat([torch.cat([k.flatten(), v.flatten()]) for k, v in real.values()])
    return both(
        differs(lstm(torch.arange(N)[None])[0], text, "LSTM that starts at a text: "),
        differs(found, right, "projected prefix that starts at a text's keys and values: "),
    )


def unequal_lengths() -> Side:
    """Two keys in the first layer and four in the second, beside loops."""
    from naive_attention import NaiveAttention

    model = base("llama", "CAUSAL_LM")
    backbone = backbone_of(model)
    deep = random_deep(backbone)
    deep[0] = KeysValues(*(part[:2] for part in deep[0]))
    sequence = TokenSequence(LONG, reads=tuple(range(len(LONG))))
    found = ours(backbone, [PromptTensors(deep=deep)], [sequence], "states")
    with NaiveAttention(model, deep):
        right = model.base_model(input_ids=torch.tensor([LONG])).last_hidden_state[0]
    return differs(found, right, "a length a layer: ")


def dropped() -> Side:
    """Dropout on keys and values while training, none in use."""
    backbone = backbone_of(base("llama", "CAUSAL_LM"))
    shapes = [site.shape for site in backbone.geometry.sites]
    prefix = PrefixEncoder(N, shapes, dropout=0.5, generator=torch.Generator().manual_seed(9))
    at = torch.arange(N)[None]
    zeros = float((prefix.train()(at) == 0).float().mean())
    right = 0.3 < zeros < 0.7 and bool((prefix.eval()(at) != 0).all())
    said = (
        f"dropout of 0.5: {'right' if right else 'wrong'} ({100 * zeros:.0f} % are 0 in training)"
    )
    return {"right": right, "said": said}
