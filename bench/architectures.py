"""Every family of transformers that the list names: ptune and PEFT side by side.

A tiny random model of each family (`families.py`) is examined as `ptune doctor` does it. Beside it
stand PEFT's prompt tuning and prefix tuning on the same model, as `get_peft_model` makes them: do
they run, does a gradient reach every parameter, is a row in a padded batch the row alone, does
every position see the prompt.

    python bench/architectures.py --json bench/results/architectures.jsonl
    python bench/architectures.py --families gpt2 deberta-v3
"""

import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
import transformers
from common import Line, machine, markdown, options, read_lines, require_peft, write_line
from families import DECODERS, FAMILIES, TWO_SIDED, make

from ptune.backbone import Backbone
from ptune.doctor import Finding, examine
from ptune.doctor.small import Ids
from ptune.errors import PtuneError

LONG, SHORT, SLOTS = 11, 5, 3
# What a decoder reads of an encoder-decoder, in tokens.
SAID = 4
# The largest difference of numbers of size 1 that is rounding.
ROUNDING = 1e-4
METHODS = ("PROMPT_TUNING", "PREFIX_TUNING")


def of_ptune(name: str) -> Line:
    """What `ptune doctor` finds."""
    try:
        model = make(name)
        report = examine(Backbone.load(model, tokenizer=Ids(model.config)))
    except PtuneError as error:
        return {"refused": str(error)}
    return report.document()


def of_peft(name: str, method: str) -> str:
    """What PEFT's method does on the model: "right", or what is wrong, in a few words."""
    from peft import PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model

    decoder = name in DECODERS
    base = make(name)
    kind = PromptTuningConfig if method == "PROMPT_TUNING" else PrefixTuningConfig
    task = TaskType.CAUSAL_LM if decoder else TaskType.FEATURE_EXTRACTION
    if name in TWO_SIDED:
        task = TaskType.SEQ_2_SEQ_LM
    body = _alone(name, base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = kind(task_type=task, num_virtual_tokens=SLOTS)
            wrapped = get_peft_model(body, config).eval()
            # Of the size of hidden states: what starts near zero would hide what is wrong.
            for weight in wrapped.parameters():
                if weight.requires_grad:
                    torch.nn.init.normal_(weight)
            return _checked(name, wrapped, decoder)
    except Exception as error:  # the peer's and the model's code may raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        return f"fails: {type(error).__name__}: {first}"[:110]


def _alone(name: str, base: Any) -> Any:
    """What PEFT is put around: the whole model, or of an encoder the model without its head."""
    return base if name in DECODERS or name in TWO_SIDED else base.base_model


def _checked(name: str, wrapped: Any, decoder: bool) -> str:
    torch.manual_seed(1)
    long = torch.randint(8, 90, (LONG,))
    short = torch.randint(8, 90, (SHORT,))
    wrong = []
    outputs = _read(wrapped, long[None], torch.ones(1, LONG, dtype=torch.long))
    trained = [weight for weight in wrapped.parameters() if weight.requires_grad]
    grads = torch.autograd.grad(outputs.sin().sum(), trained, allow_unused=True)
    # Of an encoder-decoder's prefix it may be exactly the half of one tensor that gets none.
    if any(g is None or (g != 0).float().mean() <= 0.5 for g in grads):
        wrong.append("no gradient in part")
    with torch.no_grad():
        alone = _read(wrapped, short[None], torch.ones(1, SHORT, dtype=torch.long))[0]
        sides = ("right", "left") if decoder else ("right",)
        for side in sides:
            far = _padded(wrapped, short, long, side, alone)
            if far > ROUNDING:
                too = _also_of(_alone(name, make(name)), short, long, side)
                wrong.append(f"{side}-padded row differs by {far:.2g}{too}")
        blind, positions = _blind(wrapped, long, trained)
        if blind:
            wrong.append(f"{blind} of {positions} positions do not see the prompt")
    return "; ".join(wrong) or "right"


def _read(
    wrapped: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits or states at the row's own tokens; of an encoder-decoder at what its decoder reads."""
    named = {} if positions is None else {"position_ids": positions}
    if wrapped.config.is_encoder_decoder:
        said = torch.arange(11, 11 + SAID).expand(len(ids), SAID)
        return wrapped(input_ids=ids, attention_mask=mask, decoder_input_ids=said).logits
    answer = wrapped(input_ids=ids, attention_mask=mask, **named)
    states = answer.logits if hasattr(answer, "logits") else answer.last_hidden_state
    found: torch.Tensor = states[:, -ids.shape[1] :]
    return found


def _also_of(model: Any, short: torch.Tensor, long: torch.Tensor, side: str) -> str:
    """What the model alone does there: a difference of its own is none of PEFT's."""
    alone = _read(model, short[None], torch.ones(1, SHORT, dtype=torch.long))[0]
    return (
        " (so does the model alone)" if _padded(model, short, long, side, alone) > ROUNDING else ""
    )


def _padded(
    wrapped: Any, short: torch.Tensor, long: torch.Tensor, side: str, alone: torch.Tensor
) -> float:
    padding = torch.zeros(LONG - SHORT, dtype=torch.long)
    first = (short, padding) if side == "right" else (padding, short)
    ids = torch.stack([torch.cat(first), long])
    real = torch.cat([torch.ones(SHORT), torch.zeros(LONG - SHORT)]).long()
    real = real if side == "right" else real.flip(0)
    mask = torch.stack([real, torch.ones(LONG, dtype=torch.long)])
    # On the left the row's positions are not the columns: a model that takes them is told.
    positions = (mask.cumsum(1) - 1).clamp(min=0) if side == "left" else None
    try:
        states = _read(wrapped, ids, mask, positions)[0]
    except TypeError:  # a model without the argument
        states = _read(wrapped, ids, mask)[0]
    if not wrapped.config.is_encoder_decoder:  # there the padding is on the other side
        states = states[real.bool()]
    return float((states - alone).abs().max())


def _blind(wrapped: Any, ids: torch.Tensor, trained: Sequence[torch.Tensor]) -> tuple[int, int]:
    """How many positions say the same when the prompt is another one, and of how many."""
    mask = torch.ones(1, LONG, dtype=torch.long)
    before = _read(wrapped, ids[None], mask)[0]
    for weight in trained:
        weight.mul_(-1)
    after = _read(wrapped, ids[None], mask)[0]
    return int(((after - before).abs().amax(dim=1) == 0).sum()), len(after)


# What the columns of the table are, and which truths of the doctor each of them joins.
COLUMNS = {
    "shallow": ("no prompt", "shallow prompts"),
    "deep": ("deep prompts", "sliding windows"),
    "batches": ("a row in any batch",),
    "gradients": ("gradients", "gradient checkpointing"),
    "generate": ("generate", "beams"),
    "bf16": ("bfloat16",),
}


def _cell(found: Sequence[Line]) -> str:
    outcomes = [one["outcome"] for one in found]
    if "broken" in outcomes:
        return "**broken**"
    if "refused" in outcomes:
        return "refused"
    if ("deep prompts", "not examined") in [(one["truth"], one["outcome"]) for one in found]:
        return "by tests ¹"
    return "right" if "holds" in outcomes else ""


def _row(line: Line) -> list[str]:
    ptune = line["ptune"]
    if "refused" in ptune:
        return [line["family"], "", *[""] * len(COLUMNS), *(line["peft"][m] for m in METHODS)]
    findings = {one["truth"]: one for one in ptune["findings"]}
    sites = sum(len(kind["sites"]) for kind in ptune["sites"])
    cells = [_cell([findings[t] for t in truths if t in findings]) for truths in COLUMNS.values()]
    layout = ptune["batches"].partition(":")[0]
    link = "in" if line["family"] in TWO_SIDED else "of"  # a decoder's layer has two sites
    reach = f"{sites} {link} {ptune['layers']}, {layout}"
    return [line["family"], reach, *cells, *(line["peft"][method] for method in METHODS)]


def table(lines: Sequence[Line]) -> str:
    """A row for each family: the last result of each."""
    last = {line["family"]: line for line in lines}
    if not last:
        return "Nothing was measured yet."
    head = ["family", "sites of layers, batches", *COLUMNS, *(f"PEFT {m}" for m in METHODS)]
    rows = [_row(last[name]) for name in FAMILIES if name in last]
    some = list(last.values())[-1]
    named = ", ".join(f"{key} {some['machine'][key]}" for key in ("ptune", "peft", "transformers"))
    note = (
        f"{len(rows)} families, tiny random models in float32; {some['date']}; {named}. "
        "¹ The doctor finds no second way into this attention; tests/inject/test_shims.py compares "
        "it with the model's own code, in which ordinary tokens stand in for the prompt."
    )
    return "\n".join([markdown(head, rows), "", note])


def broken(line: Line) -> list[Finding]:
    """What does not hold of ptune on this family."""
    return line["ptune"].get("broken", [])


def main() -> None:
    """Examine the families, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    lines = []
    for name in args.families:
        line: Line = {"bench": "architectures", "family": name, "ptune": of_ptune(name)}
        line["peft"] = {method: of_peft(name, method) for method in METHODS}
        line |= {"date": datetime.now(UTC).date().isoformat()} | machine(args.threads)
        write_line(args.json, line)
        lines.append(line)
        print(f"  {name}: {broken(line) or 'nothing broken'}", file=sys.stderr)
    print(table(lines))


if __name__ == "__main__":
    main()
