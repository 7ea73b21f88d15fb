r"""Flat keys and values -> attention sites, and back; what PEFT and THUDM have in common.

    one slot's floats:   | keys of layer 0 | values of layer 0 | keys of layer 1 | ...
                          \ kv_heads x head_dim /

Both libraries hand the prefix to the model as a cache, so the model counts the text from the
prefix's length on: the prompt keeps that as its `offset`, which is exact in every model, rotary or
absolute. (ptune's own prompts leave the text where it is: see `rotation` for the way back.)
"""

import logging
import re
from pathlib import PurePosixPath

from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError, ConfigError, did_you_mean
from ptune.parts import Soft
from ptune.spelling import frame
from ptune.tasks import TASKS, TaskOptions, make_task
from ptune.template import Template

log = logging.getLogger("ptune")

DEFAULT_TEXT = {
    "causal-lm": "{text} {label}",
    "token-classification": "{tokens}",
    "question-answering": "{question}{sep}{context}",
}


def to_sites(
    name: str, table: Float[Tensor, "slots floats"], backbone: Backbone
) -> dict[int, KeysValues]:
    """Cut a flat prefix into keys and values by attention site.

    Raises:
        ArtifactError: the prefix does not fit the backbone.
    """
    sites = backbone.geometry.sites
    shape = sites[0].shape
    alike = all(s.shape == shape for s in sites) and shape.key_dim == shape.value_dim
    floats = sum(site.shape.floats for site in sites)
    if not alike or table.shape[1] != floats:
        unlike = "" if alike else ", which differ from layer to layer"
        raise ArtifactError(
            f"{name}: its prefix has {table.shape[1]:,} numbers a virtual token, and "
            f'"{backbone.name}" takes {floats:,} ({len(sites)} attention sites x 2 x '
            f"{shape.kv_heads} heads x {shape.key_dim}{unlike}). Load the backbone that it was "
            "made for."
        )
    parts = table.view(len(table), 2 * len(sites), shape.kv_heads, shape.key_dim)
    return {
        at: KeysValues(parts[:, 2 * at].contiguous(), parts[:, 2 * at + 1].contiguous())
        for at in range(len(sites))
    }


def offset_of(backbone: Backbone, slots: int) -> int:
    """Where the text of a model with a prefix in its cache begins."""
    counted = backbone.geometry.two_sided or "position_ids" in backbone.geometry.takes
    return slots if counted else 0


def to_vectors(
    name: str, table: Float[Tensor, "rows width"], slots: int, backbone: Backbone
) -> Float[Tensor, "slots width"]:
    """Check shallow vectors against the backbone.

    Raises:
        ArtifactError: another width, or too few rows.
    """
    width = backbone.geometry.width
    if len(table) < slots or table.shape[1] != width:
        raise ArtifactError(
            f"{name}: its prompt has the shape {tuple(table.shape)}, and {slots} virtual tokens of "
            f'"{backbone.name}" are ({slots}, {width}). Load the backbone that it was made for.'
        )
    return table[:slots].contiguous()


def check_base(name: str, said: object, backbone: Backbone, *, force: bool) -> None:
    """Refuse a backbone of another name than the one that a file says it was made for."""
    if not isinstance(said, str) or not said or force:
        return
    if PurePosixPath(said).name != PurePosixPath(str(backbone.name).replace("\\", "/")).name:
        raise ArtifactError(
            f'{name}: was made for "{said}", and the backbone is "{backbone.name}". Load that one, '
            "or pass --force (force=True) if it is the same model under another name."
        )


def template_of(source: str | None, task: str, slots: int) -> str:
    """The template of an imported prompt: `slots` virtual tokens before everything.

    >>> template_of("Tweet text : {text} Label : {label}", "causal-lm", 8)
    '{soft:8}{bos}Tweet text : {text} Label : {label}'
    >>> template_of(None, "sequence-classification", 0)
    '{text}'
    """
    text = source or DEFAULT_TEXT.get(task, "{text}")
    placed = any(isinstance(part, Soft) for part in Template.parse(text).parts)
    return text if placed or not slots else f"{{soft:{slots}}}{{bos}}{text}"


def without_segments(name: str, template: str, backbone: Backbone) -> str:
    """The template of a prompt that was trained without `token_type_ids`: all in one segment.

    The separator is written as text, which gives its ids and no second segment.
    """
    pair = frame(backbone.tokenizer, pair=True)
    typed = pair is not None and any(pair.segments + pair.after.types)
    if not typed or "token_type_ids" not in backbone.geometry.takes:
        return template
    between = list(pair.between.ids) if pair else []
    said = "".join(backbone.tokenizer.convert_ids_to_tokens(between))
    same = backbone.tokenizer(said, add_special_tokens=False)["input_ids"] == between
    log.warning(
        "%s: PEFT leaves token_type_ids out of question answering, so the prompt was trained with "
        "question and context in one segment. %s",
        name,
        f"The imported prompt keeps it: its template has {said} for {{sep}}."
        if same
        else "Its answers differ from PEFT's.",
    )
    return re.sub(r"(?<!{)\{sep\}", lambda _: said, template) if same else template


def check_template(
    name: str, template: str, task: str, slots: int, backbone: Backbone, options: TaskOptions
) -> None:
    """Bind the prompt once, so that what does not fit is said now.

    Raises:
        ArtifactError: the template has another number of virtual tokens.
        ConfigError, TemplateError: the task does not go with the backbone or the template.
    """
    if task not in TASKS:
        raise ConfigError(
            f"{name}: task {task} is unknown.{did_you_mean(task, list(TASKS))} "
            f"Known: {', '.join(TASKS)}."
        )
    found = make_task(task, Template.parse(template), backbone, options).layout.slots
    if found != slots:
        raise ArtifactError(
            f'{name}: the template "{template}" has {found} virtual tokens, and the prompt {slots}.'
            f" Write {{soft:{slots}}}, or leave the virtual tokens out of the template."
            if slots
            else f'{name}: the template "{template}" has virtual tokens, and the prompt none: it '
            "stands at the attention sites. Leave them out of the template."
        )


def warn_of_windows(name: str, backbone: Backbone, library: str) -> None:
    """Say where ptune keeps showing a prompt that the other library loses."""
    windows = [site.window for site in backbone.geometry.sites if site.window is not None]
    if windows:
        log.warning(
            "%s: layers of this backbone see %d tokens back. There %s loses the prompt in longer "
            "rows; ptune keeps showing it, so such rows get other answers.",
            name,
            min(windows),
            library,
        )
