"""Soft prompts: what training makes, what is shipped, what a backbone runs with.

    prompt = SoftPrompt.load("complaints")            a folder, or "hub:owner/name"
    prompt.check(backbone.fingerprint, backbone.name)  refused on a backbone it was not made for
    prompt.tensors(device, dtype)                      for `ptune.run`
    prompt.save("copy")                                prompt.safetensors, prompt.json, README.md

The encoder is folded: only the constant that it computes is here. Knows no backbone and no task;
template, labels and settings are carried along so that the prompt means the same everywhere.
Next: `artifact/` for the files, `card.py` for the README.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi
from jaxtyping import Float
from torch import Tensor

from ptune import artifact
from ptune.batch import PromptTensors
from ptune.card import model_card
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError

FINGERPRINT = ("architecture", "weights", "tokenizer")

_DEEP = re.compile(r"deep\.(\d+)\.(keys|values)")
_KINDS: dict[str, type] = {
    "template": str,
    "task": str,
    "slots": int,
    "offset": int,
    "labels": list,
    "verbalizer": dict,
    "backbone": str,
    "fingerprint": dict,
    "settings": dict,
    "scores": dict,
    "trained_parameters": int,
}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SoftPrompt:
    """A folded prompt with all that is needed to use it.

    Args:
        template: the text layout.
        task: name of the task, as "causal-lm".
        slots: number of virtual tokens in the template; as many as `vectors` has rows.
        vectors: the virtual tokens in the input embeddings; None (and 0 slots) for a deep prompt
            alone.
        deep: keys and values by attention site.
        offset: added to the positions of real tokens, in tokens.
        head: tensors of the trained head by name; empty where the backbone's own is used.
        backbone_weights: the backbone's own weights by name, or those of its adapters, where they
            were trained too (`train_backbone`); empty where it was frozen. The prompt works with
            these alone.
        labels: in the order of the head's outputs.
        verbalizer: label -> answer words.
        prior: label -> log-probability that is taken out of predictions (calibration); may be
            empty.
        backbone: hub name or folder of the model that it was made for.
        fingerprint: of that model: "architecture", "weights" and "tokenizer".
        settings: the recipe. Absolute paths are saved as "./name": the rest is nobody's business.
        scores: name -> number, or split -> name -> number.
        trained_parameters: how many numbers were trained, encoder and head included.
        license: of the prompt, as the hub spells it; None says nothing.
    Raises:
        ArtifactError: the parts do not fit together, or hold numbers that are not finite.
    """

    template: str
    task: str
    slots: int
    vectors: Float[Tensor, "slots width"] | None = None
    deep: Mapping[int, KeysValues] = field(default_factory=dict)
    offset: int = 0
    head: Mapping[str, Tensor] = field(default_factory=dict)
    backbone_weights: Mapping[str, Tensor] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    verbalizer: Mapping[str, list[str]] = field(default_factory=dict)
    prior: Mapping[str, float] = field(default_factory=dict)
    backbone: str
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    trained_parameters: int = 0
    license: str | None = None

    def __post_init__(self) -> None:
        rows = 0 if self.vectors is None else len(self.vectors)
        if rows != self.slots:
            raise ArtifactError(
                f"The prompt has {self.slots} virtual tokens and vectors for {rows}. "
                "Give one vector for each virtual token."
            )
        for site, (keys, values) in self.deep.items():
            if keys.ndim != 3 or keys.shape[:2] != values.shape[:2]:
                raise ArtifactError(
                    f"The keys and values at attention site {site} do not fit together: their "
                    f"shapes are {tuple(keys.shape)} and {tuple(values.shape)}. Both are "
                    "(slots, kv_heads, head_dim), equal in the first two."
                )
        if self.prior and set(self.prior) != set(self.labels):
            raise ArtifactError(
                f"The prompt's prior is of the labels {', '.join(self.prior)}, and its labels are "
                f"{', '.join(self.labels)}. Give one number for each label."
            )
        for name, tensor in self._named_tensors().items():
            if broken := tensor.numel() - int(tensor.isfinite().sum()):
                raise ArtifactError(
                    f"{broken} of the {tensor.numel()} numbers in {name} are not finite, so the "
                    "prompt cannot work. Train again with a smaller lr."
                )

    def __repr__(self) -> str:
        return (
            f"SoftPrompt({self.task!r}, {self.slots} virtual tokens, {len(self.deep)} attention "
            f"sites, {len(self.labels)} labels, backbone={self.backbone!r})"
        )

    # ------------------------------------------------------------------------------- using it

    def tensors(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PromptTensors:
        """What `ptune.run` needs. None keeps device or dtype as they are."""
        return PromptTensors(
            vectors=None if self.vectors is None else self.vectors.to(device, dtype),
            deep={
                site: KeysValues(keys.to(device, dtype), values.to(device, dtype))
                for site, (keys, values) in self.deep.items()
            },
            offset=self.offset,
        )

    @property
    def with_adapters(self) -> bool:
        """Whether its `backbone_weights` are those of adapters alone."""
        return bool(self.backbone_weights) and self.settings.get("train_backbone") == "adapters"

    def check(
        self, fingerprint: Mapping[str, str], backbone_name: str, *, force: bool = False
    ) -> None:
        """Refuse a backbone that the prompt was not made for.

        Args:
            fingerprint: `Backbone.fingerprint`.
            backbone_name: for the message.
            force: accept any.
        Raises:
            ArtifactError: names the parts that differ.
        """
        pairs = {p: (self.fingerprint.get(p, "unknown"), fingerprint[p]) for p in FINGERPRINT}
        wrong = [part for part, (made_for, given) in pairs.items() if made_for != given]
        if force or not wrong:
            return
        seen = "; ".join("{} {:.8}, not {:.8}".format(p, *pairs[p]) for p in wrong)
        names = " and ".join([", ".join(wrong[:-1]), wrong[-1]] if wrong[1:] else wrong)
        raise ArtifactError(
            f'The prompt was made for backbone "{self.backbone}" and not for "{backbone_name}": '
            f"another {names} ({seen}). Load the backbone that it was made for, or pass --force "
            "(force=True) if you know that the difference does not matter."
        )

    def summary(self) -> dict[str, Any]:
        """What `ptune inspect` shows: plain data, without the tensors."""
        named = self._named_tensors()
        summary: dict[str, Any] = {"schema_version": artifact.SCHEMA_VERSION, **self.document()}
        summary["width"] = None if self.vectors is None else self.vectors.shape[1]
        summary["norms"] = [] if self.vectors is None else _norms(self.vectors)
        summary["sites"] = {str(s): list(kv.keys.shape) for s, kv in sorted(self.deep.items())}
        summary["head"] = {name: list(tensor.shape) for name, tensor in self.head.items()}
        if self.backbone_weights:
            summary["backbone_weights"] = sum(t.numel() for t in self.backbone_weights.values())
        summary["dtypes"] = sorted({str(t.dtype).removeprefix("torch.") for t in named.values()})
        summary["numbers"] = sum(tensor.numel() for tensor in named.values())
        summary["size_bytes"] = self.size_bytes
        return summary

    @property
    def size_bytes(self) -> int:
        """What `save` writes for the backbone to use: the tensors and the document."""
        files = artifact.to_files(self._named_tensors(), self.document(), "")
        return sum(map(len, files.values()))

    # ------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write the folder, whole or not at all, in place of the prompt that is there.

        Raises:
            ArtifactError: it cannot be written; what was there is untouched.
        """
        name = Path(path).resolve().name  # alone: the rest of the path is nobody's business
        self._write(path, name, name)

    @classmethod
    def load(
        cls, source: str | Path, *, revision: str | None = None, api: HfApi | None = None
    ) -> "SoftPrompt":
        """Read a prompt, on the CPU, bit for bit as it was saved.

        Args:
            source: a folder, or "hub:owner/name". Only `hub:` asks the network.
            revision: branch, tag or commit on the hub.
            api: another client for the hub.
        Raises:
            ArtifactError: missing, damaged, foreign, or written by a newer ptune.
        """
        name, folder = str(source), source
        if isinstance(source, str) and source.startswith("hub:"):
            folder = artifact.pull(source.removeprefix("hub:"), revision=revision, api=api)
        document, tensors = artifact.read_folder(folder, name=name)
        if "progress" in document:
            raise ArtifactError(
                f"{name}: is a checkpoint of a run, which only the run's own command goes on with "
                "(--resume). The prompt is in the folder prompt beside it, once the run has ended."
            )
        for key, kind in _KINDS.items():
            if not isinstance(document.get(key), kind):
                raise ArtifactError(
                    f'{name}: its document has no "{key}", or one of another kind: it was not '
                    "written by ptune. Ask who made it."
                )
        values = {key: document[key] for key in _KINDS} | {"license": document.get("license")}
        values["prior"] = _prior(name, document.get("prior", {}))
        values["labels"] = tuple(document["labels"])
        values["scores"] = artifact.with_nan(document["scores"])
        try:
            prompt = cls(**values, **_parts(tensors))
            prompt._check_weights(document.get("backbone_trained"))
        except ArtifactError as error:
            raise ArtifactError(f"{name}: {error}") from error
        return prompt

    def _check_weights(self, said: object) -> None:
        """Refuse weights of the backbone that are not the ones that the document names."""
        if said != (self.weights_digest if self.backbone_weights else None):
            raise ArtifactError(
                "its backbone was trained too, and the weights that it brings are not the ones "
                "that its document names. Ask who made it."
            )

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, api: HfApi | None = None
    ) -> str:
        """Upload the prompt and return the address of its repository.

        Args:
            repo_id: "owner/name"; made where it is missing.
            private: of a new repository; None is the owner's default.
            api: another client for the hub.
        Raises:
            ArtifactError: the hub refuses.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / "prompt"
            self._write(path, repo_id.split("/")[-1], f"hub:{repo_id}")
            return artifact.push(path, repo_id, private=private, api=api)

    def document(self) -> dict[str, Any]:
        """All but the tensors, as JSON carries it. `load` then `document` gives the same again."""
        document: dict[str, Any] = {key: getattr(self, key) for key in _KINDS}
        document["labels"] = list(self.labels)
        document["verbalizer"] = {label: list(words) for label, words in self.verbalizer.items()}
        document["backbone"] = artifact.model_name(self.backbone)
        document["fingerprint"] = dict(self.fingerprint)
        document["settings"] = artifact.portable(self.settings)
        if "backbone" in self.settings:
            document["settings"]["backbone"] = artifact.model_name(str(self.settings["backbone"]))
        document["scores"] = artifact.without_nan(self.scores)
        if self.prior:
            document["prior"] = dict(self.prior)
        if self.backbone_weights:
            document["backbone_trained"] = self.weights_digest
        return document if self.license is None else {**document, "license": self.license}

    def _write(self, path: str | Path, title: str, source: str) -> None:
        document = self.document()
        sites = {site: len(keys) for site, (keys, _) in self.deep.items()}
        card = model_card(document, sites=sites, title=title, source=source)
        artifact.write_folder(path, self._named_tensors(), document, card)

    def _named_tensors(self) -> dict[str, Tensor]:
        named = {} if self.vectors is None else {"vectors": self.vectors}
        for site, (keys, values) in self.deep.items():
            named |= {f"deep.{site}.keys": keys, f"deep.{site}.values": values}
        named |= {f"head.{name}": tensor for name, tensor in self.head.items()}
        return named | {f"backbone.{name}": w for name, w in self.backbone_weights.items()}

    @cached_property
    def weights_digest(self) -> str:
        """Hash of `backbone_weights`: names, shapes, kinds and bytes."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.backbone_weights.items()):
            plain = weight.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(plain.shape)} {plain.dtype} ".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _prior(name: str, found: Any) -> dict[str, float]:
    """The prior of a document; files of prompts without one have no such key."""
    if isinstance(found, dict) and all(isinstance(one, float) for one in found.values()):
        return found
    raise ArtifactError(
        f'{name}: the "prior" of its document is not one number for each label: it was not written '
        "by ptune. Ask who made it."
    )


def _norms(vectors: Float[Tensor, "slots width"]) -> list[float]:
    return [round(norm, 4) for norm in vectors.double().norm(dim=1).tolist()]


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sort named tensors into vectors, deep prompt and head."""
    deep: dict[int, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _DEEP.fullmatch(name):
            deep.setdefault(int(match[1]), {})[match[2]] = tensor
        elif name.startswith("head."):
            head[name.removeprefix("head.")] = tensor
        elif name.startswith("backbone."):
            weights[name.removeprefix("backbone.")] = tensor
        elif name != "vectors":
            raise ArtifactError(
                f'"{name}" is no tensor of a prompt. Known: vectors, deep.N.keys, deep.N.values, '
                "head.NAME and backbone.NAME. Ask who made it."
            )
    for site, pair in deep.items():
        if len(pair) == 1:
            raise ArtifactError(
                f"attention site {site} has {next(iter(pair))} alone, and needs keys and values. "
                "Ask who made it."
            )
    pairs = {site: KeysValues(pair["keys"], pair["values"]) for site, pair in sorted(deep.items())}
    vectors = tensors.get("vectors")
    return {"vectors": vectors, "deep": pairs, "head": head, "backbone_weights": weights}
