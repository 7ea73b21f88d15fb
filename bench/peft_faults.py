"""Where PEFT's prompts go wrong or cannot go: each item measured in PEFT and in ptune.

Tiny random models, float32, on a CPU. What is right is computed here by hand, with neither library:
the model's own forward on embeddings laid side by side, one row at a time, or an attention written
with loops (tests/oracles/naive_attention.py). A number is the largest difference of logits.

    python bench/peft_faults.py --json bench/results/peft_faults.jsonl
    python bench/peft_faults.py --only 7            one item

`S` items run in PEFT without an exception and give something else; the others it cannot do. No
fault is listed twice: 3 is S1 and S7, 5 is S2, 6 is S4, 10 is S9; and a prompt a row is S6 alone.
S12 depends on the version of transformers: it is for 5.24, which renamed what PEFT 0.21 hands over.
Its faults would stand in other items, too, so those are measured with 5.23 alone.
"""

import dataclasses
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as hf
from common import (
    Line,
    latest,
    machine,
    markdown,
    no_prefixes,
    options,
    read_lines,
    require_peft,
    settings_line,
    show,
    write_line,
)
from faults_sides import (
    CLASSES,
    CONFIGS,
    KINDS,
    LONG,
    PLAIN,
    SHORT,
    VIRTUAL,
    N,
    Side,
    alone,
    asked,
    backbone_of,
    base,
    behind_a_window,
    behind_keys,
    behind_vectors,
    beside_keys,
    beside_lora,
    beside_vectors,
    both,
    cached,
    checkpointed_gradient,
    deep_as_by_hand,
    differs,
    dropped,
    gone_on_with,
    in_generate,
    kept_prompt,
    ours,
    padded,
    peft_deep,
    raises,
    row,
    saved_head,
    starts,
    two_prompts,
    two_sided_by_hand,
    unequal_lengths,
    vectors_of,
    wrapped,
)
from torch import Tensor, nn

from ptune.batch import PromptTensors, TokenSequence

# About transformers 5.24 and newer; and what its faults would stand in, too.
RENAMED, SPOILT = "S12", ("S4", "S10", "12")
ITEMS: dict[str, tuple[str, Callable[[], tuple[Side, Side]]]] = {}


def item(number: str, title: str) -> Callable[[Any], Any]:
    """List a measurement under its number and title."""

    def listed(measure: Callable[[], tuple[Side, Side]]) -> Any:
        ITEMS[number] = (title, measure)
        return measure

    return listed


# ------------------------------------------------------------------------------- runs, and is wrong


@item("S1", "Classify padded rows on a decoder, virtual tokens in front")
def decoder_pooling() -> tuple[Side, Side]:
    model = base("llama", "SEQ_CLS")
    made = wrapped(model, "P", "SEQ_CLS")
    table = vectors_of(made)
    rows = (LONG, SHORT)
    right = torch.stack([model.score(alone(model, [table, ids])[-1]) for ids in rows])
    theirs = [
        differs(made(**padded(rows, left)).logits, right, f"{'left' if left else 'right'}-padded: ")
        for left in (False, True)
    ]
    states = ours(backbone_of(model), [PromptTensors(table)], [row(ids) for ids in rows], "states")
    return both(*theirs), differs(model.score(states), right)


@item("S2", "A left-padded row is the row alone, virtual tokens in front")
def left_padding() -> tuple[Side, Side]:
    model = base("llama", "CAUSAL_LM")
    made = wrapped(model, "P", "CAUSAL_LM")
    table, rows = vectors_of(made), (LONG, SHORT)
    right = torch.stack([model.lm_head(alone(model, [table, ids])[-1]) for ids in rows])
    inputs = padded(rows, left=True)
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    theirs = [
        differs(made(**inputs).logits[:, -1], right),
        differs(made(**inputs, position_ids=places).logits[:, -1], right, "position_ids given: "),
    ]
    found = ours(backbone_of(model), [PromptTensors(table)], [row(ids) for ids in rows], "logits")
    return both(*theirs), differs(found, right)


@item("S3", "Every layer of a T5 decoder has its own prefix")
def half_dead() -> tuple[Side, Side]:
    made = wrapped(base("t5", "SEQ_2_SEQ_LM"), "X", "SEQ_2_SEQ_LM")
    with torch.enable_grad():
        row = torch.tensor([LONG])
        made(input_ids=row, attention_mask=torch.ones_like(row), labels=row).loss.backward()
    gradient = made.prompt_encoder["default"].embedding.weight.grad
    dead = float((gradient == 0).float().mean())
    said = f"{100 * dead:.0f} % of the prefix gets no gradient"
    return {"right": dead == 0, "said": said}, two_sided_by_hand("t5", kinds=("decoder",))


@item("S4", "A prefix on BERT is trained under gradient checkpointing, or reliably refused")
def checkpointing() -> tuple[Side, Side]:
    made = wrapped(base("bert", "TOKEN_CLS"), "X", "TOKEN_CLS")
    made.get_base_model().gradient_checkpointing_enable()
    made.train()
    with torch.enable_grad():
        made(input_ids=torch.tensor([LONG])).logits.square().sum().backward()
    gradient = made.prompt_encoder["default"].embedding.weight.grad
    size = 0.0 if gradient is None else float(gradient.abs().max())
    after = {"right": size > 0, "said": f"switched on after: largest gradient {size:.1e}"}
    model = base("bert", "TOKEN_CLS")
    model.gradient_checkpointing_enable()
    before = raises(lambda: wrapped(model, "X", "TOKEN_CLS"))
    before["said"] = f"before: {before['said']}"
    return both(after, before), checkpointed_gradient()


@item("S5", "A saved P-tuning prompt, loaded into the model that trains it, is the same prompt")
def reload() -> tuple[Side, Side]:
    made = wrapped(base("llama", "CAUSAL_LM"), "P", "CAUSAL_LM")
    inputs = padded([LONG])
    right = made(**inputs).logits
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        made.load_adapter(folder, "default", is_trainable=False)
        theirs = differs(made(**inputs).logits, right)
    return theirs, kept_prompt()


@item("S6", "Rows of one batch with different prompts (adapter_names)")
def mixed_batch() -> tuple[Side, Side]:
    model = base("llama", "CAUSAL_LM")
    made, tables = two_prompts(model)
    right = torch.stack([model.lm_head(alone(model, [table, LONG])[-1]) for table in tables])
    inputs = padded([LONG, LONG])
    found = made(**inputs, adapter_names=["default", "other"]).logits[:, -1]
    prompts = [PromptTensors(table) for table in tables]
    rows = [row(LONG, prompt=0), row(LONG, prompt=1)]
    return differs(found, right), differs(ours(backbone_of(model), prompts, rows, "logits"), right)


@item("S7", "Classify on an encoder from [CLS], virtual tokens in front")
def encoder_pooling() -> tuple[Side, Side]:
    model = base("bert", "SEQ_CLS")
    made = wrapped(model, "P", "SEQ_CLS")
    table = vectors_of(made)

    def head(state: Tensor) -> Tensor:
        return model.classifier(model.bert.pooler(state[None, None]))[0]

    right = head(alone(model, [table, LONG])[N])
    theirs = differs(made(**padded([LONG])).logits[0], right)
    states = ours(backbone_of(model), [PromptTensors(table)], [row(LONG, at=N)], "states")
    return theirs, differs(head(states[0]), right)


@item("S8", "Question answering sees token_type_ids")
def types() -> tuple[Side, Side]:
    model = base("bert", "QUESTION_ANS")
    made = wrapped(model, "P", "QUESTION_ANS")
    table, kinds = vectors_of(made), (0, 0, 0, 1, 1, 1)
    whole = (*(0,) * N, *kinds)
    states = alone(model, [table, LONG], token_type_ids=torch.tensor([whole]))
    right = model.qa_outputs(states)[:, 0]
    out = made(**padded([LONG]), token_type_ids=torch.tensor([kinds]))
    sequence = TokenSequence((*VIRTUAL, *LONG), reads=tuple(range(len(whole))), types=whole)
    found = ours(backbone_of(model), [PromptTensors(table)], [sequence], "states")
    theirs = differs(out.start_logits[0], right)
    at = torch.tensor([2])
    loss = made(**padded([LONG]), start_positions=at, end_positions=at).loss
    logits = made(**padded([LONG]))
    unshifted = sum(
        nn.functional.cross_entropy(one, at) for one in (logits.start_logits, logits.end_logits)
    )
    if torch.allclose(loss, unshifted / 2):
        theirs["said"] += "; answers 4 tokens away from where they are"
    return theirs, differs(model.qa_outputs(found)[:, 0], right)


@item("S9", "Packed rows do not see each other; a sliding window does not lose the prompt")
def leaks() -> tuple[Side, Side]:
    model = base("llama", "CAUSAL_LM")
    made = wrapped(model, "P", "CAUSAL_LM")
    table = vectors_of(made)
    right = model.lm_head(alone(model, [table, SHORT])[-1])
    ids = torch.tensor([[*LONG, *SHORT]])
    places = torch.tensor([[*range(len(LONG)), *range(len(SHORT))]])
    packed = made(input_ids=ids, position_ids=places, use_cache=False).logits[0, -1]
    backbone = backbone_of(model)
    found = ours(backbone, [PromptTensors(table)], [row(LONG), row(SHORT)], "logits")[1]
    behind = behind_a_window()
    return (
        both(differs(packed, right, "packed: "), behind[0]),
        both(differs(found, right, "packed: "), behind[1]),
    )


@item("S10", "generate without a cache, or from a returned cache, is the plain forward")
def caches() -> tuple[Side, Side]:
    prefix = wrapped(base("opt", "CAUSAL_LM"), "X", "CAUSAL_LM")
    vectors = wrapped(base("llama", "CAUSAL_LM"), "P", "CAUSAL_LM")
    opt, llama = base("opt", "CAUSAL_LM"), base("llama", "CAUSAL_LM")
    deep, table = peft_deep(prefix, backbone_of(opt)), vectors_of(vectors)

    def beside(deep_one: Any, shallow_one: Any) -> Side:
        return both(
            cached("prefix, OPT", deep_one.generate, behind_keys(opt, deep)),
            cached("vectors, Llama", shallow_one.generate, behind_vectors(llama, table)),
        )

    return beside(prefix, vectors), beside(beside_keys("opt", deep), beside_vectors(table))


@item("S11", "Everything that answers need is saved (DeBERTa, ModernBERT)")
def unsaved() -> tuple[Side, Side]:
    import peft

    theirs = []
    for name, task in (("deberta", "SEQ_CLS"), ("modernbert", "QUESTION_ANS")):
        made = wrapped(base(name, task), "P", task)
        out = made(**padded([LONG]))
        right = out.logits if task == "SEQ_CLS" else out.start_logits
        with tempfile.TemporaryDirectory() as folder:
            made.save_pretrained(folder)
            fresh = base(name, task)
            torch.manual_seed(9)  # a new process draws other numbers for what is not in the file
            again = CLASSES[task].from_config(CONFIGS[name]()).float().eval()
            again.base_model.load_state_dict(fresh.base_model.state_dict())
            loaded = peft.PeftModel.from_pretrained(again, folder).eval()(**padded([LONG]))
        found = loaded.logits if task == "SEQ_CLS" else loaded.start_logits
        theirs.append(differs(found, right, f"{name}: "))
    return both(*theirs), saved_head()


@item(RENAMED, "In the newest transformers prompts reach generate, and classifiers take a prefix")
def renamed() -> tuple[Side, Side]:
    theirs, own = in_generate()
    model = base("bert", "SEQ_CLS")
    newest = raises(lambda: wrapped(model, "X", "SEQ_CLS")(**padded([LONG])))
    there = {"right": True, "said": f"transformers {hf.__version__}"}
    return both(there, theirs, newest), both(there, own, deep_as_by_hand("bert"))


# ------------------------------------------------------------------------------- cannot be said


def no_place() -> Side:
    """Whether any of PEFT's prompts can be told where its tokens stand."""
    import peft

    configs = (peft.PromptTuningConfig, peft.PromptEncoderConfig, peft.PrefixTuningConfig)
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    placing = sorted(n for n in names if any(w in n for w in ("position", "template", "place")))
    said = f"has settings for it: {placing}" if placing else "no setting says where they stand"
    return {"right": None if placing else False, "said": said}


@item("1", "Virtual tokens inside the text and behind [CLS]")
def inside() -> tuple[Side, Side]:
    model = base("bert", "TOKEN_CLS")
    table = torch.randn(N, 32, generator=torch.Generator().manual_seed(6))
    right = alone(model, [LONG[:1], table[:2], LONG[1:4], table[2:], LONG[4:]])
    ids = (LONG[0], -1, -2, *LONG[1:4], -3, -4, *LONG[4:])
    sequence = TokenSequence(ids, reads=tuple(range(len(ids))))
    found = ours(backbone_of(model), [PromptTensors(table)], [sequence], "states")
    return no_place(), differs(found, right)


@item("2", "Cloze with a masked language model and its loss")
def cloze() -> tuple[Side, Side]:
    model = base("bert", "FEATURE_EXTRACTION")
    made = wrapped(model, "P", "FEATURE_EXTRACTION")
    inputs = padded([LONG])
    theirs = raises(lambda: made(**inputs, labels=inputs["input_ids"]))
    table, masked = vectors_of(made), (*LONG[:3], 4, *LONG[4:])
    states = alone(model, [table, masked])
    right = model.cls(states[None])[0, N + 3]
    found = ours(backbone_of(model), [PromptTensors(table)], [row(masked, at=N + 3)], "logits")
    return theirs, differs(found[0], right, "words at the mask: ")


@item("4", "Tag tokens with virtual tokens in front")
def tagging() -> tuple[Side, Side]:
    model = base("bert", "TOKEN_CLS")
    made = wrapped(model, "P", "TOKEN_CLS")
    inputs = padded([LONG])
    theirs = raises(lambda: made(**inputs, labels=inputs["input_ids"] % 2))
    table = vectors_of(made)
    right = model.classifier(alone(model, [table, LONG])[N:])
    whole = (*VIRTUAL, *LONG)
    sequence = TokenSequence(whole, reads=tuple(range(N, len(whole))))
    found = ours(backbone_of(model), [PromptTensors(table)], [sequence], "states")
    return theirs, differs(model.classifier(found), right, "tags: ")


@item("7", "Save the prompt encoder and train on")
def train_on() -> tuple[Side, Side]:
    import peft

    made = wrapped(base("llama", "CAUSAL_LM"), "P", "CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        fresh = base("llama", "CAUSAL_LM")
        theirs = raises(lambda: peft.PeftModel.from_pretrained(fresh, folder, is_trainable=True))
    return theirs, gone_on_with()


@item("8", "A prefix in the encoder and the cross-attention of T5")
def encoder_prefix() -> tuple[Side, Side]:
    made = wrapped(base("t5", "SEQ_2_SEQ_LM"), "X", "SEQ_2_SEQ_LM")
    ids = torch.tensor([LONG])
    states = []
    for _ in range(2):
        out = made(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids)
        states.append(out.encoder_last_hidden_state)
        made.prompt_encoder["default"].embedding.weight.data.mul_(-1)
    moved = float((states[1] - states[0]).abs().max())
    said = f"turning it round moves the encoder by {moved:.1e}"
    own = [two_sided_by_hand(name, kinds=KINDS) for name in ("t5", "bart")]
    return {"right": moved > 0, "said": said}, both(*own)


@item("9", "Deep prompts on models that take no cache: ALBERT, ModernBERT, DeBERTa")
def no_cache() -> tuple[Side, Side]:
    theirs, found = [], []
    for name in ("albert", "modernbert", "deberta"):
        made = wrapped(base(name, "TOKEN_CLS"), "X", "TOKEN_CLS")
        side = raises(lambda made=made: made(**padded([LONG])))
        theirs.append({**side, "said": f"{name}: {side['said'].split(':')[0]}"})
        found.append(deep_as_by_hand(name))
    return both(*theirs), both(*found)


@item("11", "Prompts combined, prompts and LoRA together")
def combined() -> tuple[Side, Side]:
    made, _ = two_prompts(base("llama", "CAUSAL_LM"))
    weighted = raises(lambda: made.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both"))
    lora = beside_lora()
    none = {"right": False, "said": "prompts are not weighted or merged"}
    return both(weighted, lora[0]), both(none, lora[1])


@item("12", "Ways of generate: a static cache, compiled, look-up, in chunks, from vectors")
def generating() -> tuple[Side, Side]:
    model = base("llama", "CAUSAL_LM")
    made = wrapped(model, "P", "CAUSAL_LM")
    table = vectors_of(made)
    own = beside_vectors(table)
    return each_way(made.generate, model, table), each_way(own.generate, model, table)


def compiled() -> dict[str, Any]:
    """Decoding that is compiled, on a CPU too."""
    config = hf.CompileConfig(fullgraph=False, mode="default")
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "static cache": lambda: {"cache_implementation": "static"},
    "compiled": compiled,
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 2},
    "chunked prefill": lambda: {"prefill_chunk_size": 3},
}


def greedy_by_hand(model: Any, table: Tensor) -> list[int]:
    """Five tokens by plain forwards, none of them the end."""
    row, forward = list(LONG), behind_vectors(model, table)
    for _ in range(5):
        logits = forward(row)
        logits[3] = -torch.inf  # min_new_tokens keeps the end token away
        row.append(int(logits.argmax()))
    return row[len(LONG) :]


def each_way(generate: Callable[..., Any], model: Any, table: Tensor) -> Side:
    """Every way to generate, beside the tokens by hand."""
    right = greedy_by_hand(model, table)

    def said_with(**more: Any) -> bool:
        return asked(generate, LONG, **more)[0, len(LONG) :].tolist() == right

    ways: dict[str, Callable[[], bool]] = {
        name: lambda more=more: said_with(**more()) for name, more in WAYS.items()
    }
    ways["inputs_embeds"] = lambda: from_vectors(generate, model) == right
    said = {}
    for name, way in ways.items():
        try:
            said[name] = "right" if way() else "wrong"
        except Exception as error:
            said[name] = f"raises {type(error).__name__}"
    good = all(one == "right" for one in said.values())
    return {"right": good, "said": "; ".join(f"{k}: {v}" for k, v in said.items())}


def from_vectors(generate: Callable[..., Any], model: Any) -> list[int]:
    """What is said behind a row that is given as vectors."""
    vectors = model.get_input_embeddings()(torch.tensor([LONG]))
    mask = torch.ones(vectors.shape[:2], dtype=torch.long)
    found = generate(inputs_embeds=vectors, attention_mask=mask, **PLAIN)
    said: list[int] = found[0].tolist()
    return said


@item("13", "Prefixes of chosen layers, a length a layer, dropout, and where prompts start")
def some_layers() -> tuple[Side, Side]:
    model = base("llama", "CAUSAL_LM")
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        ("one layer of two", "X", {"num_layers": 1}),
        ("dropout on keys and values", "X", {"prefix_dropout": 0.1}),
        ("P-tuning from a text", "P", {"prompt_tuning_init_text": "w7 w9"}),
    ]
    theirs, row = [], padded([LONG])
    for what, kind, settings in wanted:
        side = raises(lambda k=kind, s=settings: wrapped(model, k, "CAUSAL_LM", **s)(**row))
        theirs.append({**side, "said": f"{what}: {side['said']}"})
    none = {"right": False, "said": "no start that leaves the model's answers as they are"}
    own = both(deep_as_by_hand("llama", sites=[1]), unequal_lengths(), dropped(), starts(), none)
    return both(*theirs), own


@item("14", "Widths found from the model: embeddings narrower than states")
def widths() -> tuple[Side, Side]:
    model = base("electra", "TOKEN_CLS")
    theirs = raises(lambda: wrapped(model, "P", "TOKEN_CLS")(**padded([LONG])))
    table = torch.randn(N, 16, generator=torch.Generator().manual_seed(7))
    right = alone(model, [table, LONG])
    whole = (*VIRTUAL, *LONG)
    sequence = TokenSequence(whole, reads=tuple(range(len(whole))))
    found = ours(backbone_of(model), [PromptTensors(table)], [sequence], "states")
    return theirs, differs(found, right, "electra: ")


# ------------------------------------------------------------------------------- the table


def left_out(number: str) -> str | None:
    """Why an item cannot be measured with the packages that are here; None where it can."""
    renamed = no_prefixes()
    if number == RENAMED and renamed is None:
        return "It is about PEFT 0.21 with transformers 5.24 or newer, which are not both here."
    return renamed if number in SPOILT else None


def measure(only: str | None) -> list[Line]:
    found = []
    for number, (title, side_by_side) in ITEMS.items():
        if only not in (None, number):
            continue
        if why := left_out(number):
            show(f"{number:>3} {title}: left out. {why}")
        else:
            torch.manual_seed(0)
            with torch.no_grad():
                theirs, own = side_by_side()
            line = {"bench": "peft_faults", "item": number, "title": title}
            found.append({**line, "peft": theirs, "ptune": own, **machine(1)})
            show(f"{number:>3} {title}\n      PEFT: {theirs['said']}\n      ptune: {own['said']}")
    return found


def table(lines: Sequence[Line]) -> str:
    """One line an item: what each side was measured to do."""
    kept = [line for line in latest(lines, "item") if line["item"] in ITEMS]
    rows = [
        [f"{one['item']}. {one['title']}", _shown(one["peft"]), _shown(one["ptune"])]
        for one in sorted(kept, key=lambda one: [*ITEMS].index(one["item"]))
    ]
    if not rows:
        return "Not measured yet."
    done = markdown(["what", "PEFT", "ptune"], rows).replace("|---|---:|---:|", "|---|---|---|")
    note = "logits beside those computed by hand, largest difference in brackets"
    said = settings_line(kept, "tiny random models, float32", note)
    return f"{done}\n\n{said}"


def _shown(side: Side) -> str:
    mark = {True: "✓", False: "✗", None: "-"}[side["right"]]
    return f"{mark} {str(side['said']).replace('|', '/')}"


def main() -> None:
    """Measure all items and print their table."""
    parser = options(__doc__, threads=1)
    parser.add_argument("--only", help="number of one item")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    warnings.simplefilter("ignore")
    hf.logging.set_verbosity_error()
    logging.getLogger("ptune").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    lines = measure(args.only)
    for line in lines:
        write_line(args.json, line)
    print(table(lines))


if __name__ == "__main__":
    main()
