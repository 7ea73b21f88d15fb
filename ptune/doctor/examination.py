"""An examination: all truths on one backbone, and whether it is afterwards what it was before."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ptune.backbone import Backbone
from ptune.doctor import truths
from ptune.doctor.finding import Finding, Report, SiteKind
from ptune.doctor.patient import Patient
from ptune.errors import BackboneError


def examine(backbone: Backbone, *, chosen: Sequence[truths.Truth] = truths.ALL) -> Report:
    """Try ptune's truths on a backbone.

    Args:
        chosen: which of them; all by default.
    Returns:
        What was found. Nothing is raised for a truth that does not hold.
    """
    findings = _tried_all(backbone, chosen)
    return Report(
        model=backbone.name,
        family=type(backbone.model).__name__,
        versions=versions(),
        parameters=backbone.parameters,
        layers=backbone.layers,
        batches=_batches(backbone),
        sites=_kinds(backbone),
        findings=tuple(findings),
    )


def refused(model: str, reason: str) -> Report:
    """The report of a model that cannot be used at all, which ptune says and does not try."""
    finding = Finding("any prompt", "refused", reason)
    return Report(model, "", versions(), 0, None, "none", (), (finding,))


def versions() -> dict[str, str]:
    """Of what the examination ran on."""
    named = {name: version(name) for name in ("ptune", "transformers")}
    return named | {"torch": torch.__version__, "python": platform.python_version()}


def _tried_all(backbone: Backbone, chosen: Sequence[truths.Truth]) -> list[Finding]:
    patient = Patient(backbone)
    bits, hooks = _bits(backbone.model), _hooks(backbone.model)
    tried = [_tried(truth, patient) for truth in chosen]
    return [*tried, _untouched(backbone, bits, hooks)]


def _tried(truth: truths.Truth, patient: Patient) -> Finding:
    name = truth.__name__.replace("_", " ")
    try:
        return truth(patient)
    except BackboneError as error:
        return Finding(name, "refused", str(error))
    except Exception as error:  # a model's own code may raise anything: then it does not hold
        first = (str(error).strip().splitlines() or [""])[0]
        return Finding(name, "broken", f"{type(error).__name__}: {first}")


def _bits(model: nn.Module) -> dict[str, str]:
    return {name: _digest(tensor) for name, tensor in model.state_dict().items()}


def _digest(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
        return ""
    flat = tensor.detach().contiguous().flatten().view(torch.uint8).cpu()
    return hashlib.blake2b(flat.numpy().tobytes()).hexdigest()


def _hooks(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Which hooks the modules have that have any: a model may bring some of its own."""
    return {
        name: found
        for name, module in model.named_modules()
        if (found := (*module._forward_pre_hooks, *module._forward_hooks))
    }


def _untouched(
    backbone: Backbone, bits: dict[str, str], hooks: dict[str, tuple[int, ...]]
) -> Finding:
    truth = "the backbone's bits"
    now = _hooks(backbone.model)
    changed = [name for name, those in _bits(backbone.model).items() if bits.get(name) != those]
    left = [
        name
        for name, module in backbone.model.named_modules()
        if "_ptune" in module.__dict__ or hooks.get(name) != now.get(name)
    ]
    if changed:
        return Finding(truth, "broken", f"{len(changed)} weights changed, the first: {changed[0]}")
    if left:
        return Finding(
            truth, "broken", f"hooks were left or lost in {len(left)} modules: {left[0]}"
        )
    return Finding(truth, "holds", "every weight as before, no hook left")


def _batches(backbone: Backbone) -> str:
    if not backbone.geometry.padded:
        return "packed: no padding"
    return "padded: tokens of this model meet outside its attention sites"


def _kinds(backbone: Backbone) -> tuple[SiteKind, ...]:
    kinds: dict[tuple[object, ...], list[int]] = {}
    sites = backbone.geometry.sites
    for number, site in enumerate(sites):
        kinds.setdefault((site.kind, site.causal, site.shape, site.window), []).append(number)
    first = [(numbers, sites[numbers[0]]) for numbers in kinds.values()]
    return tuple(
        SiteKind(
            sites=tuple(numbers),
            kind=site.kind,
            causal=site.causal,
            kv_heads=site.shape.kv_heads,
            key_dim=site.shape.key_dim,
            value_dim=site.shape.value_dim,
            window=site.window,
        )
        for numbers, site in first
    )
