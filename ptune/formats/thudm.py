r"""Checkpoints of the authors' own code -> a prompt.

    P-tuning     E -> LSTM -> MLP, or E -> MLP         github.com/THUDM/P-tuning
                 LAMA:       {"embedding": {embedding, lstm_head, mlp_head}, ...}
                 PT-Fewshot: {"prompt_embeddings": ..., "lstm_head": ..., "mlp_head" or "mlp": ...}
    P-tuning v2  E, or E -> Linear -> Tanh -> Linear   github.com/THUDM/P-tuning-v2
                 a model's state dict: prefix_encoder.embedding, prefix_encoder.trans, classifier

The encoder is folded: its input is constant, so what it computes is (`ptune.encoders`). Nothing is
unpickled but tensors, numbers and the options of the run. A file holds no template, no task and no
labels: those are given.
"""

import argparse
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from ptune.artifact import few, first_line
from ptune.backbone import Backbone
from ptune.config import OF_TASK, trains_head
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError, ConfigError
from ptune.formats.heads import Head, head_from
from ptune.formats.peft_folder import load_pickled
from ptune.formats.placing import check_template, offset_of, template_of, to_sites, to_vectors
from ptune.prompt import SoftPrompt
from ptune.tasks import TaskOptions
from ptune.tasks.options import Problem

log = logging.getLogger("ptune")

_GATES = 4  # of an LSTM: input, forget, cell, output
_PREFIX = re.compile(r"(?:.*\.)?prefix_encoder\.")
_V1 = re.compile(r"(.*\.)?(?:embedding|prompt_embeddings)\.weight")
AGAIN = "Give the file that the authors' code wrote, or its state dict saved again."


class _Found(NamedTuple):
    """The tensors of one encoder, named from the encoder on."""

    deep: bool
    table: Tensor
    rest: dict[str, Tensor]


def import_thudm(
    file: str | Path,
    backbone: Backbone,
    *,
    template: str | None = None,
    task: str = "sequence-classification",
    labels: Sequence[str] = (),
    problem: Problem = "single-label",
) -> SoftPrompt:
    """Read a checkpoint of P-tuning or P-tuning v2, and fold its encoder.

    Args:
        file: .pth, .pt, .bin or .safetensors.
        backbone: the model that it was made for.
        template: needed for P-tuning, with as many virtual tokens as the file has; of P-tuning v2,
            the text of a row.
        task: what the prompt does.
        labels: what the head's outputs mean, or the label words, in their order.
        problem: what a row's label is.
    Raises:
        ArtifactError: damaged, of another form, or not for this backbone.
        ConfigError, TemplateError: template, task and backbone do not go together.
    """
    name = str(file)
    tensors = _read(name, Path(file))
    found = _find(name, tensors)
    if not found.deep and template is None:
        raise ConfigError(
            f"{name}: holds the {len(found.table)} virtual tokens of P-tuning, and not where they "
            "stand. Say it with --template, as {soft:3}{mask}{soft:3}{subject}{soft:3}."
        )
    if not found.deep and trains_head(task, "head"):
        raise ConfigError(
            f"{name}: holds virtual tokens of P-tuning and no head, which task = {task} needs. "
            "Name the task that it was trained for with --task: masked-lm or causal-lm."
        )
    vectors, deep = _folded(name, found, backbone)
    slots, offset = 0 if found.deep else len(found.table), 0
    if found.deep:
        offset = offset_of(backbone, len(found.table))
    head = _head(name, tensors, task, backbone) if found.deep and task != "causal-lm" else None
    spans = task == "question-answering"  # its outputs are a start and an end, no labels
    labels = () if spans else _labels(name, head, tuple(labels), problem)
    settings = _settings(found, task, problem, head)
    text = template_of(template, task, slots)
    options = TaskOptions.of(settings, labels=labels, offset=offset)
    check_template(name, text, task, slots, backbone, options)
    return SoftPrompt(
        template=text,
        task=task,
        slots=slots,
        vectors=vectors,
        deep=deep,
        offset=offset,
        head=head.tensors if head else {},
        labels=labels,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        settings=settings,
        trained_parameters=len(found.table) * found.table.shape[1]
        + sum(tensor.numel() for tensor in found.rest.values()),
    )


def _read(name: str, file: Path) -> dict[str, Tensor]:
    """All tensors of a file by dotted names."""
    if not file.is_file():
        raise ArtifactError(f"{name}: there is no such file. {AGAIN}")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load(file.read_bytes())
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{name}: is damaged ({first_line(error)}). {AGAIN}") from error
    # LAMA's files carry the run's options: plain data in a class of the standard library.
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = load_pickled(name, file)
    return dict(_flat(found, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))


def _find(name: str, tensors: Mapping[str, Tensor]) -> _Found:
    """The encoder among all tensors: P-tuning v2's by its name, P-tuning's by what stands by it."""
    deep = [full for full in tensors if _PREFIX.fullmatch(full.removesuffix("embedding.weight"))]
    if deep:
        own = _behind(tensors, deep[0].removesuffix("embedding.weight"))
        return _Found(True, own.pop("embedding.weight"), own)
    for full in tensors:
        at = _V1.fullmatch(full)
        own = _behind(tensors, (at[1] or "") if at else "")
        if at and any(one.startswith(("lstm_head.", "mlp_head.", "mlp.")) for one in own):
            table = own.pop(full.removeprefix(at[1] or ""))
            kept = ("lstm_head.", "mlp_head.", "mlp.")
            return _Found(False, table, {n: t for n, t in own.items() if n.startswith(kept)})
    raise ArtifactError(
        f"{name}: holds no prompt encoder of P-tuning (embedding or prompt_embeddings beside "
        "lstm_head, mlp_head or mlp) and no prefix_encoder of P-tuning v2. Found: "
        f"{few(sorted(tensors)) or 'no tensor'}. {AGAIN}"
    )


def _behind(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}


@torch.no_grad()
def _folded(
    name: str, found: _Found, backbone: Backbone
) -> tuple[Tensor | None, dict[int, KeysValues]]:
    try:
        if not found.deep:
            made = _p_tuning(found.table, found.rest)
            return to_vectors(name, made, len(made), backbone), {}
        made = found.table
        if "trans.0.weight" in found.rest:
            made = _network(made, found.rest, "trans.", torch.tanh)
        return None, to_sites(name, made, backbone)
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{name}: the tensors of its prompt encoder do not fit together "
            f"({first_line(error)}). {AGAIN}"
        ) from error


def _p_tuning(
    table: Float[Tensor, "slots width"], rest: Mapping[str, Tensor]
) -> Float[Tensor, "slots width"]:
    """`MLP(LSTM(E))`, or `MLP(E)` (arXiv:2103.10385; the authors' PromptEncoder)."""
    if "mlp.0.weight" in rest:
        return _network(table, rest, "mlp.", torch.relu)
    weights = {n.removeprefix("lstm_head."): t for n, t in rest.items() if n.startswith("lstm_")}
    layers = sum(re.fullmatch(r"weight_ih_l\d+", one) is not None for one in weights)
    lstm = nn.LSTM(
        table.shape[1],
        len(weights["weight_ih_l0"]) // _GATES,
        num_layers=layers,
        bidirectional="weight_ih_l0_reverse" in weights,
        batch_first=True,
    )
    lstm.load_state_dict(weights)
    return _network(lstm(table[None])[0][0], rest, "mlp_head.", torch.relu)


def _network(table: Tensor, rest: Mapping[str, Tensor], prefix: str, bend: Any) -> Tensor:
    """Two linear maps with a bend between them."""
    first = table @ rest[f"{prefix}0.weight"].T + rest[f"{prefix}0.bias"]
    second: Tensor = bend(first) @ rest[f"{prefix}2.weight"].T + rest[f"{prefix}2.bias"]
    return second


def _head(name: str, tensors: Mapping[str, Tensor], task: str, backbone: Backbone) -> Head:
    """The head of P-tuning v2; for whole rows it stands behind the pooler of its own checkpoint."""
    head = {n: t.float() for n, t in tensors.items() if n.split(".")[0] in ("classifier", "score")}
    head |= {n: t.float() for n, t in tensors.items() if n.startswith("qa_outputs.")}
    rows = task == "sequence-classification"
    pooler = [n for n in tensors if n.endswith("pooler.dense.weight")]
    if not (rows and pooler and head.keys() == {"classifier.weight", "classifier.bias"}):
        return head_from(name, head, backbone, task)
    weight, bias = tensors[pooler[0]], tensors[pooler[0].replace("weight", "bias")]
    return Head(
        "tanh",  # BertPooler's, RobertaPooler's
        {
            "linear.weight": head["classifier.weight"],
            "linear.bias": head["classifier.bias"],
            "dense.weight": weight.float(),
            "dense.bias": bias.float(),
        },
    )


def _labels(
    name: str, head: Head | None, labels: tuple[str, ...], problem: Problem
) -> tuple[str, ...]:
    if head is None or problem == "regression":
        return labels
    outputs = len(head.tensors["linear.weight"])
    if labels and len(labels) != outputs:
        raise ArtifactError(
            f"{name}: {len(labels)} labels were named, and its head has {outputs} outputs. Name "
            "one label for each, in their order."
        )
    return labels or tuple(str(label) for label in range(outputs))


def _settings(found: _Found, task: str, problem: Problem, head: Head | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        **OF_TASK.get(task, {}),
        "task": task,
        "method": "p-tuning-v2" if found.deep else "p-tuning",
        "problem": problem,
        "prompt_length": len(found.table),
        "imported_from": {"library": "P-tuning v2" if found.deep else "P-tuning"},
    }
    if head is not None:
        settings["head_form"] = head.form
        if task == "sequence-classification":
            settings["pooling"] = "first"
    return settings
