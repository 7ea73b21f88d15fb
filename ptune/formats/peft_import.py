r"""A PEFT folder -> a prompt that answers as PEFT's own model does.

    PROMPT_TUNING, P_TUNING, CPT    prompt_embeddings                          vectors before all
    MULTITASK_PROMPT_TUNING         prompt_embeddings * (cols[t] @ rows[t])    the vectors of task t
    PREFIX_TUNING, CARTRIDGE        prompt_embeddings                          keys and values

PEFT puts virtual tokens before everything, the tokenizer's own opening tokens included, so the
template of an imported shallow prompt is `{soft:20}{bos}...`. Where PEFT itself is wrong, the
prompt is what it was trained to be, and a sentence on the log says what that is.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi
from torch import Tensor

from ptune.backbone import Backbone
from ptune.config import OF_TASK
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError
from ptune.formats.heads import Head, head_from
from ptune.formats.peft_folder import DEEP, TASKS, PeftFolder, read_peft
from ptune.formats.placing import (
    check_base,
    check_template,
    offset_of,
    template_of,
    to_sites,
    to_vectors,
    warn_of_windows,
    without_segments,
)
from ptune.formats.two_sided import check_words, to_decoder
from ptune.prompt import SoftPrompt
from ptune.tasks import TaskOptions
from ptune.tasks.options import Problem

log = logging.getLogger("ptune")

METHODS = {"P_TUNING": "p-tuning", "PREFIX_TUNING": "p-tuning-v2", "CARTRIDGE": "p-tuning-v2"}


class _Tensors(NamedTuple):
    vectors: Tensor | None
    deep: dict[int, KeysValues]
    offset: int


def import_peft(
    source: str | Path,
    backbone: Backbone,
    *,
    template: str | None = None,
    labels: Sequence[str] = (),
    problem: Problem | None = None,
    task_index: int | None = None,
    revision: str | None = None,
    force: bool = False,
    api: HfApi | None = None,
) -> SoftPrompt:
    """Read a prompt that PEFT saved; it gives PEFT's own logits where PEFT is right.

    Args:
        source: a folder, or "hub:owner/name".
        backbone: the model that it was made for.
        template: what the rows were written as; virtual tokens are put before it unless it has its
            own. None is the text alone.
        labels: what the outputs of the head mean, in their order, or the label words of a causal
            prompt; none: "0", "1", ... or free text.
        problem: what a row's label is; None is one number for a head with one output, else one
            label.
        task_index: which task of a multitask prompt.
        revision: on the hub.
        force: accept a backbone of another name.
        api: another client for the hub.
    Raises:
        ArtifactError: missing, damaged, no prompt, or not for this backbone.
        ConfigError, TemplateError: the task does not go with the backbone or the template.
    """
    folder = read_peft(source, revision=revision, api=api)
    task = _task(folder)
    check_base(folder.name, folder.config.get("base_model_name_or_path"), backbone, force=force)
    parts = _tensors(folder, backbone, task_index)
    head = _head(folder, task, backbone)
    problem = problem or ("regression" if head and _outputs(head) == 1 else "single-label")
    spans = task == "question-answering"  # its outputs are a start and an end, no labels
    labels = () if spans else _labels(folder, head, tuple(labels), problem)
    settings = _settings(folder, task, problem, labels, head, backbone)
    slots = 0 if parts.vectors is None else folder.slots
    text = template_of(template, task, slots)
    if spans:
        text = without_segments(folder.name, text, backbone)
    options = TaskOptions.of(settings, labels=labels, offset=parts.offset)
    check_template(folder.name, text, task, slots, backbone, options)
    if parts.deep:
        warn_of_windows(folder.name, backbone, "PEFT")
    return SoftPrompt(
        template=text,
        task=task,
        slots=slots,
        vectors=parts.vectors,
        deep=parts.deep,
        offset=parts.offset,
        head=head.tensors if head else {},
        labels=labels,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        settings=settings,
        trained_parameters=sum(tensor.numel() for tensor in folder.tensors.values()),
    )


def _task(folder: PeftFolder) -> str:
    said = folder.config.get("task_type")
    if said not in TASKS:
        raise ArtifactError(
            f"{folder.name}: its task_type is {said!r}, which ptune cannot import. Allowed: "
            f"{', '.join(TASKS)}."
        )
    return TASKS[str(said)]


def _tensors(folder: PeftFolder, backbone: Backbone, task_index: int | None) -> _Tensors:
    """The prompt itself, cut and checked for the backbone."""
    table = folder.tensor("prompt_embeddings")
    if task_index is not None and folder.kind != "MULTITASK_PROMPT_TUNING":
        raise ArtifactError(
            f"{folder.name}: is the prompt of one task, so there is none to choose. Leave "
            "--task-index (task_index) out."
        )
    if folder.kind in DEEP:
        if len(table) != folder.slots:
            raise ArtifactError(
                f"{folder.name}: its config says {folder.slots} virtual tokens, and its weights "
                f"hold {len(table)}. Copy the whole folder again from where it was made."
            )
        if backbone.geometry.two_sided:
            deep = to_decoder(folder.name, table, _layers(folder), backbone)
        else:
            deep = to_sites(folder.name, table, backbone)
        return _Tensors(None, deep, offset_of(backbone, folder.slots))
    if backbone.geometry.two_sided:
        _check_two_sided(folder, backbone)
    if folder.kind == "MULTITASK_PROMPT_TUNING":
        table = table * _of_task(folder, task_index)
    return _Tensors(to_vectors(folder.name, table, folder.slots, backbone), {}, 0)


def _layers(folder: PeftFolder) -> int:
    layers = folder.config.get("num_layers")
    if not isinstance(layers, int) or layers < 1:
        raise ArtifactError(
            f'{folder.name}: adapter_config.json says "num_layers": {layers!r}, and a prefix of an '
            "encoder-decoder needs it to be cut. Copy the whole folder again from where it was "
            "made."
        )
    return layers


def _check_two_sided(folder: PeftFolder, backbone: Backbone) -> None:
    check_words(folder.name, backbone)
    if folder.kind == "MULTITASK_PROMPT_TUNING":
        raise ArtifactError(
            f"{folder.name}: PEFT trains a multitask prompt of an encoder-decoder with virtual "
            "tokens before the decoder's start token, and generates without them, so there are no "
            "answers of its own to keep. Train it again with task: seq2seq-lm."
        )


def _of_task(folder: PeftFolder, index: int | None) -> Tensor:
    """The factor of one task, a product of two thin matrices (MPT, arXiv:2303.02861)."""
    columns, rows = folder.tensor("prefix_task_cols", 3), folder.tensor("prefix_task_rows", 3)
    count = len(columns)
    if index is None and count == 1:
        index = 0
    if index is None or not 0 <= index < count:
        found = "none was named" if index is None else f"{index} was named"
        raise ArtifactError(
            f"{folder.name}: holds the prompts of {count} tasks, 0 to {count - 1}, and {found}. "
            "Choose one with --task-index (task_index=0)."
        )
    return columns[index] @ rows[index]


def _head(folder: PeftFolder, task: str, backbone: Backbone) -> Head | None:
    if task in ("causal-lm", "seq2seq-lm"):
        return None
    return head_from(folder.name, folder.head(), backbone, task)


def _outputs(head: Head) -> int:
    return len(head.tensors["linear.weight"])


def _labels(
    folder: PeftFolder, head: Head | None, labels: tuple[str, ...], problem: Problem
) -> tuple[str, ...]:
    if head is None or problem == "regression":
        return labels
    outputs = _outputs(head)
    if labels and len(labels) != outputs:
        raise ArtifactError(
            f"{folder.name}: {len(labels)} labels were named, and its head has {outputs} outputs. "
            "Name one label for each, in their order."
        )
    return labels or tuple(str(label) for label in range(outputs))


def _settings(
    folder: PeftFolder,
    task: str,
    problem: Problem,
    labels: Sequence[str],
    head: Head | None,
    backbone: Backbone,
) -> dict[str, Any]:
    """A recipe's keys, so that the task binds as the folder was trained."""
    settings: dict[str, Any] = {
        **OF_TASK.get(task, {}),
        "task": task,
        "method": METHODS.get(folder.kind, "prompt-tuning"),
        "problem": problem,
        "prompt_length": folder.slots,
        "imported_from": {
            "library": "peft",
            "version": folder.config.get("peft_version"),
            "peft_type": folder.kind,
        },
    }
    if head is None:
        return settings | {"answer": "label" if labels else "text"}
    settings["head_form"] = head.form
    if task == "sequence-classification":
        settings["pooling"] = _pooling(folder, backbone)
    return settings


def _pooling(folder: PeftFolder, backbone: Backbone) -> str:
    shallow = folder.kind not in DEEP
    if backbone.geometry.causal:
        if shallow:
            log.warning(
                "%s: in right-padded batches PEFT's classifier reads a pad instead of the row's "
                "last token; the imported prompt answers as PEFT does for a row without padding.",
                folder.name,
            )
        return "last"
    if not shallow:
        return "first"
    log.warning(
        "%s: PEFT's classifier reads the first virtual token where the model's own reads [CLS]. "
        "The head was trained so, and the imported prompt keeps it (pooling: virtual).",
        folder.name,
    )
    return "virtual"
