"""The same recipe in PEFT, where PEFT can say it: the peer that ptune's times stand beside.

    prompt-tuning, p-tuning     PROMPT_TUNING, P_TUNING      virtual tokens in front, causal models
    p-tuning-v2                 PREFIX_TUNING                all layers

PEFT gets the rows of a batch padded to the longest of them, which is the best that its users do,
and starts from ptune's own prompt, held in the same units, so that the same optimizer takes the
same steps. Where both compute the same function, the losses of all steps are then equal but for
rounding, and whoever measures can see it. Where they are not the same function, `Side.another`
says why.

The only module that imports PEFT, and only when a side is made: it is no dependency of ptune's.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from ptune.backbone import Backbone
from ptune.bench import NO_PEFT
from ptune.bench.sides import Side, Workload, make_workload
from ptune.config import Recipe
from ptune.encoders import EmbeddingEncoder, PrefixEncoder
from ptune.errors import ConfigError
from ptune.tasks import Example
from ptune.trainable import IGNORED


class Units(nn.Module):
    """`P = scale * W`: PEFT's table, held in ptune's units."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.scale: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """The table that PEFT sees."""
        return self.scale * weight

    def right_inverse(self, table: Tensor) -> Tensor:
        """What is trained for such a table."""
        return table / self.scale


def refusal(workload: Workload) -> str | None:
    """Why PEFT cannot say this recipe; None where it can."""
    recipe = workload.recipe
    if find_spec("peft") is None:
        return NO_PEFT
    if recipe.method == "p-tuning-v2":
        return _deep_refusal(workload)
    if recipe.task != "causal-lm":
        return (
            f"PEFT is left out: with {recipe.method} and a trained head it pools a virtual token "
            "or a pad, which is another computation."
        )
    if recipe.encoder == "residual":
        return "PEFT is left out: it has no residual encoder."
    slots = workload.task.layout.slots
    front = tuple(-1 - slot for slot in range(slots))
    for example in (e for batches in workload.steps for part in batches for e in part):
        ids = example.sequence.ids
        if ids[:slots] != front or min(ids[slots:], default=0) < 0:
            return (
                "PEFT is left out: its virtual tokens stand in front of everything, and those "
                f'of template "{recipe.template}" do not.'
            )
    return None


def _deep_refusal(workload: Workload) -> str | None:
    if workload.task.layout.slots:
        return "PEFT is left out: it has no prompt that is deep and stands in the text at once."
    examples = (e for batches in workload.steps for part in batches for e in part)
    if any(any(one.types) for example in examples for one in example.sequences):
        return "PEFT is left out: it passes no segments (token_type_ids) on to the model."
    sites = workload.backbone.geometry.sites
    if workload.prompt.sites != tuple(range(len(sites))):
        return "PEFT is left out: its prefixes go to all layers or to none."
    if len({site.name for site in sites}) < len(sites):
        return "PEFT is left out: it gives layers that share their weights no prefix."
    return None


def peer_workload(recipe: Recipe, backbone: Backbone, *, steps: int) -> Workload:
    """The recipe's rows, with the one loss over words that PEFT has: over the whole vocabulary."""
    words = recipe.task == "causal-lm"
    said = recipe.changed(loss="vocabulary") if words else None
    return make_workload(recipe, backbone, steps=steps, said=said)


def peer_side(workload: Workload, recipe: Recipe) -> Side:
    """As PEFT trains.

    Args:
        workload: from `peer_workload`.
        recipe: what was asked for.
    Raises:
        ConfigError: PEFT cannot say the recipe.
    """
    why = refusal(workload)
    if why is not None:
        raise ConfigError(why)
    wrapped = _wrap(workload)
    encoder: nn.Module = wrapped.prompt_encoder["default"]
    held = _start(workload, encoder)
    lr, encoder_lr = workload.recipe.lr, workload.recipe.encoder_lr
    groups = [{"params": list(encoder.parameters()), "lr": lr if held else encoder_lr}]
    if workload.prompt.head is not None:
        workload.prompt.head.train()
        groups.append(
            {"params": list(workload.prompt.head.parameters()), "lr": workload.recipe.head_lr}
        )
    losses = (
        _words(workload, wrapped) if workload.task.read == "words" else _states(workload, wrapped)
    )
    return Side(_cached(losses, held), groups, True, _another(recipe, held))


def _wrap(workload: Workload) -> Any:
    """The backbone's model in PEFT's wrapper, whose prompt encoder is in train mode."""
    import peft

    recipe = workload.recipe
    kind = "CAUSAL_LM" if workload.task.read == "words" else "FEATURE_EXTRACTION"
    model = workload.backbone.model if workload.task.read == "words" else workload.backbone.body
    width = workload.backbone.geometry.width
    if workload.prompt.deep is not None:
        deep = workload.prompt.deep
        config = peft.PrefixTuningConfig(
            task_type=kind,
            num_virtual_tokens=deep.slots,
            prefix_projection=recipe.projection is not None,
            encoder_hidden_size=recipe.projection,
        )
    elif recipe.encoder in ("lstm", "mlp"):
        config = peft.PromptEncoderConfig(
            task_type=kind,
            num_virtual_tokens=workload.task.layout.slots,
            encoder_reparameterization_type=recipe.encoder.upper(),
            encoder_hidden_size=recipe.encoder_hidden or width,
        )
    else:
        slots = workload.task.layout.slots
        config = peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=slots)
    wrapped = peft.get_peft_model(model, config).to(workload.backbone.device)
    wrapped.train(recipe.backbone_dropout)  # the frozen model is as on ptune's side
    wrapped.prompt_encoder.train()
    return wrapped


def _start(workload: Workload, encoder: nn.Module) -> bool:
    """Start from ptune's numbers in ptune's units, where both train a plain table."""
    own = workload.prompt.deep or workload.prompt.shallow
    free = isinstance(own, PrefixEncoder) and own.projection is None
    if not (free or isinstance(own, EmbeddingEncoder)):
        return False
    assert isinstance(own, PrefixEncoder | EmbeddingEncoder)
    embedding = encoder.get_submodule("embedding")
    assert isinstance(embedding, nn.Embedding)
    with torch.no_grad():
        embedding.weight.copy_(own.table())
    parametrize.register_parametrization(embedding, "weight", Units(own.scale.clone()))
    return True


def _cached(losses: Callable[..., Tensor], held: bool) -> Callable[..., Tensor]:
    """PEFT looks at its table more than once a step; it is scaled once."""

    def within(examples: Sequence[Example]) -> Tensor:
        once: AbstractContextManager[None] = parametrize.cached() if held else nullcontext()
        with once:
            return losses(examples)

    return within


def _another(recipe: Recipe, held: bool) -> str | None:
    if (recipe.task, recipe.answer, recipe.loss) == ("causal-lm", "label", "labels"):
        return (
            "The losses are not compared: the recipe's is over the labels, PEFT's over the whole "
            "vocabulary. With loss=vocabulary they are the same."
        )
    if not held:
        return (
            "The losses are not compared: PEFT's network that makes the prompt is another one, and "
            "starts elsewhere. With method=prompt-tuning, or without projection, they are the same."
        )
    if recipe.prefix_dropout:
        return "The losses are not compared: PEFT has no dropout on keys and values."
    if recipe.backbone_dropout:
        return "The losses are not compared: dropout of the backbone is another draw on each side."
    return None


# ---- one batch ----


def _words(workload: Workload, wrapped: Any) -> Callable[[Sequence[Example]], Tensor]:
    """The mean cross-entropy of each answer's words, from the logits of all positions.

    PEFT's own loss is the mean over all words of a batch: the same where answers are equally long.
    What it costs is the same: every position's logits in float32.
    """
    front = 0 if workload.prompt.deep is not None else workload.task.layout.slots

    def losses(examples: Sequence[Example]) -> Float[Tensor, " examples"]:
        rows = [_with_answer(example) for example in examples]
        inputs = padded_inputs(workload.backbone, rows, _first_position(workload))
        words = inputs.pop("labels")[:, 1:]
        logits = wrapped(**inputs).logits[:, front:-1].float()
        each = functional.cross_entropy(
            logits.flatten(0, 1), words.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return each.view(words.shape).sum(dim=1) / (words != IGNORED).sum(dim=1)

    return losses


def _states(workload: Workload, wrapped: Any) -> Callable[[Sequence[Example]], Tensor]:
    """The loss of the recipe's own head on the states of the recipe's own positions."""

    def losses(examples: Sequence[Example]) -> Float[Tensor, " examples"]:
        sequences = [one for example in examples for one in example.sequences]
        rows = [(one.ids, ()) for one in sequences]
        inputs = padded_inputs(workload.backbone, rows, _first_position(workload))
        del inputs["labels"]
        states = wrapped(**inputs).last_hidden_state
        row, at = zip(
            *((i, at) for i, one in enumerate(sequences) for at in one.reads), strict=True
        )
        return workload.task.loss(states[list(row), list(at)], examples, workload.prompt.head)

    return losses


Row = tuple[tuple[int, ...], tuple[int, ...]]


def _with_answer(example: Example) -> Row:
    """The ids of a row up to its answer, without virtual tokens, and those of the answer."""
    ids = tuple(id for id in example.sequence.ids if id >= 0)
    said = len(example.target) - 1
    return ids[: len(ids) - said], example.target


def _first_position(workload: Workload) -> int | None:
    """Where PEFT is to put the first token; None for virtual tokens, which count as positions.

    PEFT adds the number of its keys to positions, so they are taken off before.
    """
    geometry = workload.backbone.geometry
    if workload.prompt.deep is None or "position_ids" not in geometry.takes:
        return None
    return geometry.first_position + workload.prompt.offset - workload.prompt.deep.slots


def padded_inputs(
    backbone: Backbone, rows: Sequence[Row], first_position: int | None
) -> dict[str, Int[Tensor, "batch tokens"]]:
    """Rows padded right to the longest of them; labels where an answer stands, -100 elsewhere."""
    padding = backbone.tokenizer.pad_token_id or 0
    width = max(len(ids) + len(answer) for ids, answer in rows)
    ids, mask, labels = [], [], []
    for row, answer in rows:
        pads = width - len(row) - len(answer)
        ids.append([*row, *answer, *[padding] * pads])
        mask.append([1] * (width - pads) + [0] * pads)
        labels.append([IGNORED] * len(row) + list(answer) + [IGNORED] * pads)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if first_position is not None:
        inputs["position_ids"] = [list(range(first_position, first_position + width))] * len(rows)
    return {name: torch.tensor(value, device=backbone.device) for name, value in inputs.items()}
