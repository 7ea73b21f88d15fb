"""The truths that ptune's own tests hold, one function each: a patient in, a finding out.

Every function says against what it compares. A model without attention sites cannot carry a deep
prompt, and one without a language-model head cannot continue a text: that is said, not failed.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence, pack
from ptune.doctor import oracles
from ptune.doctor.finding import Finding, Outcome
from ptune.doctor.patient import Patient, difference
from ptune.doctor.stand_ins import by_stand_ins
from ptune.errors import BackboneError
from ptune.generation import generate
from ptune.run import run

NEW_TOKENS = 6
BEAMS = 3
# A row of this many tokens is still quick on a small model; a wider window is not looked over.
WIDEST_WINDOW = 512
# A copy in bfloat16 is made of models up to this size.
MOST_COPIED = 2_000_000_000
# How much farther from float32 than the model's own bfloat16 a pass may be, and what is near.
BF16, LEAST_BF16 = 2.0, 0.05

Truth = Callable[[Patient], Finding]


def _judged(truth: str, patient: Patient, far: float, note: str) -> Finding:
    outcome: Outcome = "holds" if far <= patient.tolerance else "broken"
    return Finding(truth, outcome, note, far)


def no_prompt(patient: Patient) -> Finding:
    """Without a prompt ptune computes what the model computes."""
    ours = patient.states(patient.long, PromptTensors())
    far = difference(ours, oracles.own(patient.backbone, patient.row(patient.long)))
    return _judged("no prompt", patient, far, "as the untouched model")


@torch.no_grad()
def shallow(patient: Patient) -> Finding:
    """Virtual tokens are embeddings put in their places."""
    vectors = patient.shallow.vectors
    assert vectors is not None
    ours = patient.states(patient.placed, patient.shallow)
    theirs = oracles.placed(patient.backbone, patient.row(patient.placed), vectors)
    note = "as the untouched model on inputs_embeds, virtual tokens in front, inside and behind"
    if patient.two_sided:
        note = "as the untouched model whose embeddings give them, anywhere on both sides"
    return _judged("shallow prompts", patient, difference(ours, theirs), note)


def deep(patient: Patient) -> Finding:
    """Keys and values at the sites are keys and values in front."""
    truth = "deep prompts"
    if not patient.backbone.geometry.sites:
        return Finding(
            truth,
            "refused",
            "no attention that a prompt could enter was found; shallow prompts work",
        )
    far, notes = [], []
    plain = oracles.Naive(patient.backbone, {})
    if _naive_is_sound(patient, plain):
        theirs = oracles.Naive(patient.backbone, patient.deep.deep).states(
            patient.row(patient.long)
        )
        far.append(difference(patient.states(patient.long, patient.deep), theirs))
        notes.append("as a naive attention with them in front")
    cached = _behind(patient)
    if cached is not None:
        prompt, theirs = cached
        row = patient.long[: len(theirs)]
        far.append(difference(patient.states(row, prompt), theirs))
        notes.append("as a text, whose own cache they are")
    if not far:
        behind = by_stand_ins(patient.backbone, patient.row(patient.long), patient.deep.deep)
        if behind is not None:
            far.append(difference(patient.states(patient.long, patient.deep), behind))
            notes.append("as tokens behind the row, of whose scores contents alone are kept")
    if not far:
        return Finding(truth, "not examined", "there is no second way to put keys into this model")
    return _judged(truth, patient, max(far), "; ".join(notes) + _reach(patient.backbone))


def _naive_is_sound(patient: Patient, plain: oracles.Naive) -> bool:
    """Whether all attention of this model goes through the naive one, and gives the same."""
    try:
        states = plain.states(patient.row(patient.long))
    except Exception:  # whatever a model raises that knows no foreign attention
        return False
    near = (
        difference(states, oracles.own(patient.backbone, patient.row(patient.long)))
        <= patient.tolerance
    )
    return near and plain.calls == len(patient.backbone.geometry.sites)


def _behind(patient: Patient) -> tuple[PromptTensors, Tensor] | None:
    """Only where a text in front is seen as a prompt is: by all tokens, through no window."""
    geometry = patient.backbone.geometry
    if not geometry.causal or geometry.padded:
        return None
    windows = [site.window for site in geometry.sites if site.window is not None]
    room = min([len(patient.short) + len(patient.long), *windows])
    text = patient.short[: max(1, room // 3)]
    row = patient.long[: room - len(text)]
    return oracles.behind(patient.backbone, text, row) if row else None


def _reach(backbone: Backbone) -> str:
    layers, sites = backbone.layers, len(backbone.geometry.sites)
    if layers is None or sites >= layers:
        return ""
    return f"; they reach {sites} of {layers} layers, the others have no attention"


@torch.no_grad()
def batches(patient: Patient) -> Finding:
    """A row in any batch is the row alone."""
    b = patient.backbone
    prompts = [patient.shallow, PromptTensors()]
    long, short = patient.long, patient.short
    rows = [
        patient.row((-1, -2, -3, *long), reads=(5, len(long) + 2), shared=3),
        patient.row((-1, -2, -3, *short), reads=(3, len(short)), shared=3),
        patient.row(short, 1, reads=(0, len(short) - 1)),
    ]
    if b.geometry.sites:
        prompts += [patient.deep, patient.deep_at([len(b.geometry.sites) - 1], 1)]
        rows += [
            patient.row(long, 2, reads=(0, len(long) - 1)),
            patient.row(short, 3, reads=(1,)),
        ]
    alone = [run(b, prompts, b.pack([row])) for row in rows]
    causal = b.geometry.causal
    tried = [b.pack(rows), pack(rows, share=causal, padded=True)]
    if not b.geometry.padded:
        tried.append(pack(rows, share=False))
    far = [difference(run(b, prompts, batch), torch.cat(alone)) for batch in tried]
    backwards = run(b, prompts, b.pack(rows[::-1]))
    far.append(difference(backwards, torch.cat(alone[::-1])))
    note = "packed, padded and turned round" if not b.geometry.padded else "padded and turned round"
    return _judged("a row in any batch", patient, max(far), f"{note}, as the row alone")


@torch.no_grad()
def windows(patient: Patient) -> Finding:
    """A deep prompt is seen through a sliding window, at every position."""
    truth = "sliding windows"
    sites = patient.backbone.geometry.sites
    found = [(site, s.window) for site, s in enumerate(sites) if s.window is not None]
    if not found:
        return Finding(truth, "not examined", "no site has a window")
    site, window = found[-1]
    room = patient.backbone.geometry.max_tokens or 2**20
    length = 2 * window + 2
    if window > WIDEST_WINDOW or length > room:
        return Finding(truth, "not examined", f"a window of {window} tokens needs a longer row")
    ids = (patient.long * (length // len(patient.long) + 1))[:length]
    with_prompt = patient.states(ids, patient.deep_at([site]))
    without = patient.states(ids, PromptTensors())
    moved = (with_prompt - without).float().norm(dim=1) / without.float().norm(dim=1)
    blind = int((moved <= patient.tolerance).sum())  # less is rounding
    note = f"{len(ids)} tokens behind a window of {window}: "
    if blind:
        return Finding(truth, "broken", note + f"{blind} of them do not see the prompt")
    return Finding(truth, "holds", note + "all see the prompt")


def gradients(patient: Patient) -> Finding:
    """The gradient reaches every number of a prompt, and is the one of the untouched model."""
    leaves, got = _gradients(patient)
    dead = [g for g in got if not torch.isfinite(g).all() or (g != 0).float().mean() < 0.5]
    if dead:
        note = f"{len(dead)} of {len(got)} tensors of the prompt get none, or no finite one"
        return Finding("gradients", "broken", note)
    vectors = leaves[0].detach().requires_grad_()
    theirs = oracles.placed(patient.backbone, patient.row(patient.placed), vectors)
    (expected,) = torch.autograd.grad(theirs.float().sin().sum(), vectors)
    ours = _gradients(patient, deep=False)[1][0]
    note = f"all {len(got)} tensors; of the vectors, as through inputs_embeds"
    # A gradient is a sum over many roundings.
    return _judged("gradients", patient, difference(ours, expected) / 10, note)


def _gradients(patient: Patient, *, deep: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    assert patient.shallow.vectors is not None
    vectors = patient.shallow.vectors.detach().requires_grad_()
    pairs = {
        site: type(kv)(kv.keys.detach().requires_grad_(), kv.values.detach().requires_grad_())
        for site, kv in (patient.deep.deep.items() if deep else ())
    }
    leaves = [vectors, *(tensor for kv in pairs.values() for tensor in kv)]
    states = patient.states(patient.placed, PromptTensors(vectors=vectors, deep=pairs))
    return leaves, list(torch.autograd.grad(states.float().sin().sum(), leaves))


def checkpointing(patient: Patient) -> Finding:
    """Gradient checkpointing changes no gradient."""
    before = patient.backbone.gradient_checkpointing
    try:
        patient.backbone.gradient_checkpointing = False
        plain = _gradients(patient)[1]
        patient.backbone.gradient_checkpointing = True
        again = _gradients(patient)[1]
    finally:
        patient.backbone.gradient_checkpointing = before
    far = max(difference(one, other) for one, other in zip(again, plain, strict=True))
    return _judged("gradient checkpointing", patient, far, "the same gradients as without")


def generating(patient: Patient) -> Finding:
    """What `generate` says, for rows of any length together, is what step by step is likeliest."""
    truth = "generate"
    if not _continues(patient.backbone):
        return Finding(truth, "not examined", "the model has no head that continues a text")
    prompts, rows = _to_continue(patient)
    answers = generate(patient.backbone, prompts, rows, max_new_tokens=NEW_TOKENS)
    far = 0.0
    for row, answer in zip(rows, answers, strict=True):
        logits = patient.likely(row, answer, prompts)
        for at, token in enumerate(answer):
            short_of = logits[at].max() - logits[at, token]
            far = max(far, float(short_of / logits[at].float().norm()))
    side = "right" if patient.two_sided else "left"
    return _judged(truth, patient, far, f"greedy, rows padded on the {side}, as step by step")


def beams(patient: Patient) -> Finding:
    """The beams of a mixed batch are those of each row alone."""
    truth = "beams"
    if not _continues(patient.backbone):
        return Finding(truth, "not examined", "the model has no head that continues a text")
    if patient.backbone.dtype != torch.float32:
        return Finding(truth, "not examined", "in 16 bits beams of equal scores may swap")
    prompts, rows = _to_continue(patient)
    wide = {"max_new_tokens": NEW_TOKENS, "beams": BEAMS}
    together = generate(patient.backbone, prompts, rows, **wide)
    alone = [generate(patient.backbone, prompts, [row], **wide)[0] for row in rows]
    wrong = sum(one != other for one, other in zip(together, alone, strict=True))
    if wrong:
        return Finding(truth, "broken", f"{wrong} of {len(rows)} rows end otherwise than alone")
    return Finding(truth, "holds", f"{BEAMS} beams, mixed prompts, as each row alone")


def _continues(backbone: Backbone) -> bool:
    goes_on = backbone.geometry.causal or backbone.geometry.two_sided
    return backbone.has_lm_head and goes_on and backbone.model.can_generate()


def _to_continue(patient: Patient) -> tuple[list[PromptTensors], list[TokenSequence]]:
    prompts = [patient.shallow, PromptTensors()]
    rows = [
        patient.to_answer((-1, -2, -3, *patient.long)),
        patient.to_answer(patient.short, 1),
        patient.to_answer(patient.short, said=(-2, patient.long[0])),
    ]
    if patient.backbone.geometry.sites:
        prompts.append(patient.deep)
        rows.append(patient.to_answer(patient.short[:3], 2))
    return prompts, rows


@torch.no_grad()
def bfloat16(patient: Patient) -> Finding:
    """In bfloat16 all numbers are finite, and near those of float32."""
    truth, b = "bfloat16", patient.backbone
    if b.dtype != torch.float32 or b.quantization or b.in_parts or b.parameters > MOST_COPIED:
        return Finding(truth, "not examined", "needs a copy of a model in float32 and in one piece")
    try:
        half = Backbone.load(copy.deepcopy(b.model).bfloat16(), tokenizer=b.tokenizer)
    except BackboneError as error:
        return Finding(truth, "refused", str(error))
    if half.geometry.sites != b.geometry.sites:
        return Finding(truth, "refused", "rows together differ from rows alone: no deep prompts")
    other = Patient(half)
    both = PromptTensors(patient.shallow.vectors, patient.deep.deep)
    if not torch.isfinite(other.states(patient.placed, both)).all():
        return Finding(truth, "broken", "not every number is finite")
    assert patient.shallow.vectors is not None
    exact, native = (
        oracles.placed(one, patient.row(patient.placed), patient.shallow.vectors)
        for one in (b, half)
    )
    ours = other.states(patient.placed, patient.shallow)
    far, own = difference(ours, exact), difference(native, exact)
    outcome: Outcome = "holds" if far <= max(BF16 * own, LEAST_BF16) else "broken"
    note = f"finite; as far from float32 as the untouched model in bfloat16 ({own:.1e})"
    return Finding(truth, outcome, note, far)


ALL: tuple[Truth, ...] = (
    no_prompt,
    shallow,
    deep,
    batches,
    windows,
    gradients,
    checkpointing,
    generating,
    beams,
    bfloat16,
)
