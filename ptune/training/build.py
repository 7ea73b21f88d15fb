"""From a recipe to the parts of a run: prompt, head, where they start, and the steps."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from ptune.backbone import Backbone
from ptune.config import Recipe, trains_head
from ptune.encoders import (
    EmbeddingEncoder,
    Encoder,
    LSTMEncoder,
    MLPEncoder,
    PrefixEncoder,
    ResidualEncoder,
)
from ptune.errors import ConfigError, TemplateError
from ptune.initial import Start, initial_keys_values, initial_vectors, text_ids
from ptune.layout import Layout
from ptune.parts import Anchor
from ptune.prompt import SoftPrompt
from ptune.tasks import Example, Task
from ptune.tasks.flat import computed_tokens
from ptune.template import Template
from ptune.trainable import TrainablePrompt
from ptune.training.schedule import Batching, ByRows, ByTokens, Plan
from ptune.training.thawed import trained_weights

# With fewer steps than this a prompt has not settled. Tried by hand, on other rows than those of
# the tables: of 1,500 rows a prompt learned more in about 1,000 steps than in 375; of 50 rows it
# learned no more in 240 than in 60, so epochs have a limit, too.
FEW_STEPS = 1000
LEAST_EPOCHS, MOST_EPOCHS = 5, 20


def build_prompt(
    recipe: Recipe, backbone: Backbone, task: Task, template: Template, layout: Layout
) -> TrainablePrompt:
    """Make the prompt that a recipe asks for, at its start. One seed makes one prompt.

    Args:
        recipe: resolved.
        layout: the template, bound to the backbone's tokenizer.
    Raises:
        ConfigError: the method has nothing to train, or nowhere to put it; a layer is not there, or
            the head would read a token that does not see the row.
        TemplateError: virtual tokens stand where nothing that is read can see them.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    start = _start(recipe, backbone, task, template)
    deep = recipe.method == "p-tuning-v2"
    if not deep and not layout.slots:
        raise ConfigError(
            f'template "{template.source}" has no virtual tokens, which method {recipe.method} '
            "trains. Put {soft:20} where they should stand, or use method: p-tuning-v2."
        )
    _refuse_unseen(recipe, backbone, template, layout)
    shallow = _shallow(recipe, backbone, layout, start, generator) if layout.slots else None
    if deep and not backbone.geometry.sites:
        raise ConfigError(
            f"method = {recipe.method}: {type(backbone.model).__name__} has no attention that a "
            "deep prompt could enter. Set method: prompt-tuning or p-tuning."
        )
    sites = _sites(recipe, backbone) if deep else ()
    prefix, offset = _deep(recipe, backbone, sites, start, generator) if deep else (None, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        head = task.head(backbone.geometry.hidden)
    _start_head(head, start, recipe, task)
    weights = trained_weights(recipe, backbone)
    return TrainablePrompt(
        shallow=shallow, deep=prefix, sites=sites, offset=offset, head=head, backbone=weights
    )


def _start_head(head: nn.Module | None, start: Start, recipe: Recipe, task: Task) -> None:
    """A prompt to start from gives its head, too, where that answers the same question.

    Raises:
        ConfigError: that head has another form.
    """
    given = start.prompt
    if head is None or given is None or not given.head:
        return
    if given.task != recipe.task or given.labels != task.labels:
        return
    shapes = {name: weight.shape for name, weight in head.state_dict().items()}
    if {name: weight.shape for name, weight in given.head.items()} != shapes:
        form = given.settings.get("head_form", "another one")
        raise ConfigError(
            f"head_form = {recipe.head_form}: the prompt to start from answers the same question "
            f"with a head of another form ({form}). Give both the same head_form."
        )
    head.load_state_dict(dict(given.head))


def _refuse_unseen(recipe: Recipe, backbone: Backbone, template: Template, layout: Layout) -> None:
    """What stands behind the tokens that are read is never seen in a decoder, nor trained."""
    read = trains_head(recipe.task, recipe.choose_by) and backbone.geometry.causal
    pools = read and recipe.task in ("sequence-classification", "multiple-choice")
    pooling = backbone.pooling if recipe.pooling == "auto" else recipe.pooling
    if pools and pooling in ("first", "virtual"):
        raise ConfigError(
            f"pooling = {pooling}: in a decoder the first token does not see the row. Set pooling: "
            "last or mean."
        )
    if read and layout.ends_virtual:
        raise TemplateError(
            f'template "{template.source}": task {recipe.task} reads the tokens of the '
            "row, and in a decoder they do not see what stands behind them, so the virtual tokens "
            "at the end would never be trained. Put them before the text."
        )


def _shallow(
    recipe: Recipe, backbone: Backbone, layout: Layout, start: Start, generator: torch.Generator
) -> Encoder:
    slots, width = layout.slots, backbone.geometry.width
    initial, scale = None, 1.0
    if start.kind != "paper":
        initial, scale = (
            initial_vectors(backbone, start, slots, generator),
            backbone.embedding_scale,
        )
        if start.kind != "prompt":  # a text in the template goes before any other start
            for block, ids in layout.texts:
                initial[block.start : block.stop] = backbone.embed(ids).cpu()
    if recipe.encoder == "lstm":
        return LSTMEncoder(
            slots,
            width,
            hidden=recipe.encoder_hidden,
            dropout=recipe.encoder_dropout,
            initial=initial,
            scale=scale,
            generator=generator,
        )
    if recipe.encoder == "mlp":
        hidden = recipe.encoder_hidden
        return MLPEncoder(
            slots, width, hidden=hidden, initial=initial, scale=scale, generator=generator
        )
    if recipe.encoder == "residual":
        bottleneck = recipe.encoder_hidden or 128
        return ResidualEncoder(
            slots, width, bottleneck=bottleneck, initial=initial, scale=scale, generator=generator
        )
    return EmbeddingEncoder(slots, width, initial=initial, scale=scale, generator=generator)


def _deep(
    recipe: Recipe,
    backbone: Backbone,
    sites: Sequence[int],
    start: Start,
    generator: torch.Generator,
) -> tuple[PrefixEncoder, int]:
    made = None
    if start.kind != "paper":
        made = initial_keys_values(backbone, start, recipe.prompt_length, sites, generator)
    encoder = PrefixEncoder(
        recipe.prompt_length,
        [backbone.geometry.sites[site].shape for site in sites],
        projection=recipe.projection,
        dropout=recipe.prefix_dropout,
        initial=made.initial if made else None,
        scales=made.scales if made else None,
        generator=generator,
    )
    return encoder, made.offset if made else 0


def _sites(recipe: Recipe, backbone: Backbone) -> tuple[int, ...]:
    sites = backbone.geometry.sites
    if recipe.sites is None:
        return chosen_sites(recipe.layers, len(sites))
    if not backbone.geometry.two_sided:
        raise ConfigError(
            f'sites = {list(recipe.sites)}: "{backbone.name}" is no encoder-decoder, so its '
            "attention is of one kind. Leave sites out; layers chooses among its sites."
        )
    return tuple(at for at, site in enumerate(sites) if site.kind in recipe.sites)


def chosen_sites(layers: Sequence[int] | str | None, count: int) -> tuple[int, ...]:
    """The attention sites of a deep prompt: all, the last ones, or those listed.

    Raises:
        ConfigError: one is not there.

    >>> chosen_sites("upper:2", 6), chosen_sites((0, 3), 6), chosen_sites(None, 2)
    ((4, 5), (0, 3), (0, 1))
    """
    if layers is None:
        return tuple(range(count))
    if isinstance(layers, str):
        upper = int(layers.partition(":")[2])
        wanted = list(range(count - upper, count))
    else:
        wanted = sorted(layers)
    if wanted[0] < 0 or wanted[-1] >= count:
        said = layers if isinstance(layers, str) else list(layers)
        raise ConfigError(
            f"layers = {said}: the backbone has {count} attention sites, numbered 0 .. "
            f"{count - 1}. Choose among them."
        )
    return tuple(wanted)


def _start(recipe: Recipe, backbone: Backbone, task: Task, template: Template) -> Start:
    """What `init` names; "auto" is the text that says most about the task."""
    said = " ".join(recipe.verbalizer.get(label, (label,))[0] for label in task.labels)
    if recipe.init in ("random", "vocabulary", "paper"):
        return Start(recipe.init)
    if recipe.init == "text" or (recipe.init == "auto" and recipe.init_text):
        assert recipe.init_text is not None
        return Start("text", text_ids(backbone, recipe.init_text))
    if recipe.init == "labels":
        if not task.labels:
            raise ConfigError("init = labels: the task has no labels. Use init: text.")
        return Start("labels", text_ids(backbone, said))
    if recipe.init == "auto" and recipe.method == "p-tuning-v2" and backbone.geometry.two_sided:
        # What both sides make of a text says much at their sites, and at the default step size it
        # is slow to unlearn (bench/seq2seq.py); noise of the same size says nothing.
        return Start("random")
    if recipe.init == "auto":
        own = " ".join(p.text.strip() for p in template.parts if isinstance(p, Anchor))
        whole = f"{own} {said}".strip()
        return Start("text", text_ids(backbone, whole)) if whole else Start("vocabulary")
    prompt = SoftPrompt.load(recipe.init)
    if prompt.backbone_weights:
        raise ConfigError(
            f"init = {recipe.init}: this prompt was trained together with its backbone "
            "(train_backbone) and means nothing without those weights. Start from another prompt."
        )
    return Start("prompt", prompt=prompt)


def plan_of(recipe: Recipe, backbone: Backbone, task: Task, training: Sequence[Example]) -> Plan:
    """Which rows each step sees: so many rows, or so many tokens, at once.

    Raises:
        ConfigError: `tokens_per_batch` has no room for a row.
    """
    batching: Batching = ByRows(len(training), recipe.batch_size)
    if recipe.tokens_per_batch is not None:
        share = backbone.geometry.causal and not backbone.geometry.padded
        head = task.layout.shared if share else 0
        if head >= recipe.tokens_per_batch:
            raise ConfigError(
                f"tokens_per_batch = {recipe.tokens_per_batch}: every batch begins with the {head} "
                "tokens that all rows share, so no row would fit. Raise it, or set batch_size."
            )
        tokens = computed_tokens(training, share=share)
        batching = ByTokens(tokens, recipe.tokens_per_batch, head, backbone.geometry.padded)
    return Plan.of(
        batching,
        recipe.accumulation,
        epochs=recipe.epochs or _epochs(batching.count(torch.Generator()), recipe),
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )


def default_epochs(rows: int, recipe: Recipe) -> int:
    """Enough epochs for about `FEW_STEPS` steps, from `LEAST_EPOCHS` to `MOST_EPOCHS`."""
    return _epochs(math.ceil(rows / recipe.batch_size), recipe)


def _epochs(batches: int, recipe: Recipe) -> int:
    steps = math.ceil(batches / recipe.accumulation)
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(FEW_STEPS / steps)))


def head_tensors(head: nn.Module | None) -> dict[str, torch.Tensor]:
    """A head as tensors for the artifact."""
    return {} if head is None else {k: v.detach().cpu() for k, v in head.state_dict().items()}
