"""The backbone: a frozen transformer with its tokenizer, and what the probe found of it.

    backbone = Backbone.load("bigscience/bloomz-560m")
    backbone.geometry.sites         # its attention sites, in order
    backbone.fingerprint            # refuses prompts that were made for another model

Weights are bit for bit the same before and after everything that ptune does; a run that trains them
(`train_backbone`) trains a copy. Knows no prompt: `ptune.run` brings the two together.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune import sharding
from ptune.batch import Batch, TokenSequence, pack
from ptune.demo import resolve
from ptune.errors import ArtifactError, BackboneError
from ptune.fingerprint import fingerprint_of
from ptune.inject import (
    Geometry,
    Injection,
    LanguageHead,
    device_of,
    injected,
    input_embeddings,
    is_two_sided,
    layers,
    probe,
)
from ptune.int8 import make_int8
from ptune.loading import (
    INT8,
    DeviceMap,
    Place,
    Pooling,
    adapters_given,
    cannot_load,
    finish_int8,
    freezing,
    pretrained,
    quiet,
    trained_pooling,
    within,
)


class Backbone:
    """A frozen model, ready to carry prompts.

    Args:
        model: with or without a head; it is frozen and put in eval mode.
        tokenizer: its tokenizer.
        name: hub name or folder, for messages and artifacts.
        pooling: how its states were pooled when it was trained, where that is known.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, name: str, *, pooling: Pooling | None = None
    ) -> None:
        self.adapters = adapters_given(model)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        with freezing(model):
            self.geometry: Geometry = probe(self.body)
        # An encoder's first token is made to stand for the row; a decoder's last one has seen it.
        self.pooling: Pooling = pooling or ("last" if self.geometry.causal else "first")
        self.gradient_checkpointing = False
        self._language_head: LanguageHead | None = None
        self.compiled = False
        self.sharded = False
        self.quantization: str | None = None
        # Hash of the weights of a prompt that brought its own (`tuned`).
        self.tuned_by: str | None = None

    @classmethod
    def load(
        cls,
        source: str | Path | nn.Module,
        *,
        tokenizer: Any = None,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        offline: bool = False,
        quantization: Any = None,
        device_map: DeviceMap = None,
        offload_folder: str | Path | None = None,
        to_be_sharded: bool = False,
    ) -> "Backbone":
        """Load and freeze a model.

        Args:
            source: hub name, local folder, "ptune-tiny" (the model that comes with ptune), or a
                model in memory, with PEFT's LoRA or without (then its tokenizer and no options).
            dtype: "auto" is float32 on a CPU and the stored one elsewhere.
            device: "auto" takes a GPU where there is one.
            trust_remote_code: run code that comes with the model. Off unless asked.
            offline: never ask the hub.
            quantization: "int8" (`ptune.int8`), or a quantisation config of transformers.
            device_map: as in transformers, or "disk"; for models larger than one device.
            offload_folder: for what the map puts on the disk, where it is not in safetensors files.
            to_be_sharded: stay on the CPU until `shard` is called.
        Raises:
            BackboneError: not found, not loadable, or of a family that ptune cannot reach yet.
        """
        place = Place(device, dtype, device_map, offload_folder, quantization, to_be_sharded)
        if isinstance(source, nn.Module):
            given = [*place.given(), *(["revision"] if revision is not None else [])]
            return cls._of_object(within(source), tokenizer, given)
        place.check()
        folder = resolve(str(source))
        options: dict[str, Any] = {
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "local_files_only": offline or Path(folder).is_dir(),
        }
        try:
            model = pretrained(folder, place, options)
            with quiet(folder):
                if tokenizer is None:
                    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
                pooling = trained_pooling(folder, options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise cannot_load(source, trust_remote_code, error) from error
        backbone = cls(model, tokenizer, str(source), pooling=pooling)
        if place.int8:
            backbone._make_int8(place)
        return backbone

    def _make_int8(self, place: Place) -> None:
        """Its fingerprint stays that of the weights as they were: a prompt fits both."""
        _ = self.fingerprint, self.parameters
        make_int8(self._layers, self.name)
        finish_int8(self.model, place)
        self.quantization = INT8

    @classmethod
    def _of_object(
        cls, model: PreTrainedModel, tokenizer: Any, options: Sequence[str]
    ) -> "Backbone":
        if options:
            raise BackboneError(
                f"{type(model).__name__} was given as an object, and {', '.join(options)} "
                "say how to load one. Leave them out: a model in memory stays as and where it is."
            )
        if tokenizer is None:
            raise BackboneError(
                f"{type(model).__name__} was given as an object, without its tokenizer. "
                "Pass it too: Backbone.load(model, tokenizer=tokenizer)."
            )
        return cls(model, tokenizer, model.config.name_or_path or type(model).__name__)

    def __repr__(self) -> str:
        return (
            f"Backbone({self.name!r}, {type(self.model).__name__}, {self.parameters:,} parameters, "
            f"{len(self.geometry.sites)} attention sites, {self.dtype}, {self.device})"
        )

    @property
    def body(self) -> PreTrainedModel:
        """The model without its head."""
        body = self.model.base_model
        if body is not self.model or is_two_sided(body) or body.get_output_embeddings() is None:
            return body
        # Llama 4 names a body that it does not have: the body is the one model inside.
        return next((m for m in body.children() if isinstance(m, PreTrainedModel)), body)

    @property
    def device(self) -> torch.device:
        """Where ids go in."""
        return device_of(self._embedding)

    @property
    def dtype(self) -> torch.dtype:
        """Of the input embeddings."""
        return self._embedding.weight.dtype

    @property
    def _embedding(self) -> Any:
        return input_embeddings(self.model)[0]

    @property
    def decoder_start(self) -> int:
        """The token that every decoder side of an encoder-decoder begins with.

        Raises:
            BackboneError: the model's configuration names none.
        """
        for config in (self.model.generation_config, self.model.config):
            for name in ("decoder_start_token_id", "bos_token_id"):
                start = getattr(config, name, None)
                if isinstance(start, int):
                    return start
        raise BackboneError(
            f'"{self.name}" does not say what its decoder starts with. Set decoder_start_token_id '
            "in its generation_config.json."
        )

    @property
    def layers(self) -> int | None:
        """How many layers it has, with attention or without; None where its config is silent."""
        if self.geometry.two_sided:
            return len(self._layers)  # one count would be that of one side
        count = getattr(self.body.config.get_text_config(), "num_hidden_layers", None)
        return count if isinstance(count, int) else None

    @property
    def has_lm_head(self) -> bool:
        """Whether the model gives logits over its vocabulary."""
        return self.model.get_output_embeddings() is not None

    def language_head(self, output: type[Any]) -> LanguageHead:
        """The head as a function of states; `output` is the class of what the body returns."""
        if self._language_head is None:
            self._language_head = LanguageHead(self.model, output)
        return self._language_head

    @cached_property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def max_tokens(self) -> int:
        """Longest sequence that model and tokenizer take, in tokens (virtual ones included)."""
        limits = [self.geometry.max_tokens, getattr(self.tokenizer, "model_max_length", None)]
        return min(int(limit) for limit in [*limits, 2**20] if limit)

    def injected(self) -> AbstractContextManager[Injection]:
        """Prompts can go in for the time of this context; leaving it restores the model."""
        return injected(
            self.model,
            self._sites,
            also_embedding=[self._prefix + name for name in self.geometry.also_embedding],
            checkpointing=self.gradient_checkpointing,
            compiling=self.compiled,
        )

    def shard(self, device: torch.device) -> None:
        """Keep one share of every layer, on `device`; the other processes keep the others.

        From here on every process must run the backbone equally often; see `ptune.sharding`.
        """
        if self.geometry.two_sided:
            raise BackboneError(
                f'"{self.name}" is an encoder-decoder, which ptune cannot divide among '
                "processes yet. Start without --use_fsdp; device_map puts it on several devices of "
                "one process."
            )
        _ = self.fingerprint, self.parameters  # of whole weights
        if self.has_lm_head:  # it looks at the model by running it
            first = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            with torch.no_grad():
                self.language_head(type(self.body(input_ids=first)))
        sharding.shard(self.body, self._layers, device)
        self.model.to(device)
        self.sharded = True

    def copied(self, own: Collection[str] | None = None) -> "Backbone":
        """Another backbone with the same weights, in memory of its own.

        Args:
            own: names of the weights that are copied, and the others shared; None: all.
        Raises:
            BackboneError: it does not lie whole on one device.
        """
        self._refuse_copies()
        named = self.model.named_parameters()
        shared = {id(w): w for name, w in named if own is not None and name not in own}
        model = copy.deepcopy(self.model, shared)  # what it finds there is not copied
        made = type(self)(model, self.tokenizer, self.name, pooling=self.pooling)
        made.fingerprint, made.tuned_by = self.fingerprint, self.tuned_by
        made.adapters = self.adapters
        return made

    def _refuse_copies(self) -> None:
        if self.in_parts or self.quantization is not None:
            raise BackboneError(
                f'"{self.name}" is quantised, sharded, or spread by a device map, so it cannot be '
                "copied to carry other weights. Load it whole, on one device."
            )

    def tuned(self, weights: Mapping[str, Tensor], digest: str) -> "Backbone":
        """A copy with other weights: those that were trained together with a prompt.

        Args:
            weights: by their names in the model; all of them, or those that were trained.
            digest: their hash, by which the copy is known from here on.
        Raises:
            BackboneError: it cannot be copied.
        """
        made = self.copied(own=weights)
        own = dict(made.model.named_parameters())
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(weight)
        made.fingerprint = {**self.fingerprint, "weights": digest[:32]}
        made.tuned_by = digest
        return made

    def check_weights(self, weights: Mapping[str, Tensor], *, adapters: bool) -> None:
        """Refuse weights of a prompt's own that have no place here.

        Args:
            adapters: they are those of adapters; else of the whole model.
        Raises:
            ArtifactError: names one that does not fit.
            BackboneError: it can carry no other weights than its own.
        """
        self._refuse_copies()
        own = dict(self.model.named_parameters())
        asked = weights if adapters else {*own, *weights}
        wrong = sorted(
            name
            for name in asked
            if name not in own or name not in weights or own[name].shape != weights[name].shape
        )
        if wrong and adapters:
            raise ArtifactError(
                "The prompt was trained together with adapters (train_backbone: adapters), and "
                f'"{self.name}" has no place for them: {wrong[0]} is missing, or has another '
                "shape. Put adapters of the same settings on the model before Backbone.load; the "
                "prompt brings their weights."
            )
        if wrong:
            raise ArtifactError(
                f'The prompt brings weights of its own, which do not fit "{self.name}": {wrong[0]} '
                "is missing on one side, or has another shape. Load the backbone that the prompt "
                "was made for, with the head that it was saved with."
            )

    @property
    def in_parts(self) -> bool:
        """Whether it does not lie whole on one device: sharded, or spread by a device map."""
        places = set(getattr(self.model, "hf_device_map", {}).values())
        return self.sharded or len(places) > 1 or "disk" in places

    @property
    def _layers(self) -> list[nn.Module]:
        return layers(self.model, self._sites)

    @cached_property
    def _sites(self) -> tuple[Any, ...]:
        """Sites by their names within the whole model; the probe saw the body alone."""
        return tuple(replace(s, name=self._prefix + s.name) for s in self.geometry.sites)

    @cached_property
    def _prefix(self) -> str:
        """What stands before the names of the body's modules within the whole model."""
        name = next(n for n, m in self.model.named_modules() if m is self.body)
        return f"{name}." if name else ""

    def pack(self, sequences: Sequence[TokenSequence]) -> Batch:
        """Lay sequences out as this backbone needs them: packed, or padded where it must be.

        Raises:
            BackboneError: a token has no embedding.
        """
        self.check_ids(sequences)
        return pack(sequences, share=self.geometry.causal, padded=self.geometry.padded)

    def check_ids(self, sequences: Sequence[TokenSequence]) -> None:
        """Refuse tokens that the model has no embedding for: behind its table virtual ids begin.

        Raises:
            BackboneError: names the token.
        """
        count = self.geometry.num_embeddings
        for one in sequences:
            behind = () if one.decoder is None else (one.decoder.ids,)
            sides = (one.ids, *behind, *(branch.ids for branch in one.answered.branches))
            largest = max(max(ids, default=0) for ids in sides)
            if largest >= count:
                word = self.tokenizer.convert_ids_to_tokens(largest)
                raise BackboneError(
                    f'The tokenizer of "{self.name}" has a token {word!r} of id {largest}, and the '
                    f"model has embeddings for {count} ids alone. Resize the model's embeddings "
                    "and train them, or take the tokenizer that the model was trained with."
                )

    @torch.no_grad()
    def embed(self, ids: Sequence[int] | Int[Tensor, " tokens"]) -> Float[Tensor, "tokens width"]:
        """The input embeddings of ordinary tokens, scaled as the model scales them, in float32."""
        index = torch.as_tensor(ids, device=self.device)
        return self._embedding(index[None])[0].float()

    @cached_property
    def embedding_scale(self) -> float:
        """Typical size of one number of an input embedding (root mean square)."""
        count = min(self.geometry.num_embeddings, 4096)
        ids = torch.linspace(0, self.geometry.num_embeddings - 1, count).long()
        return float(self.embed(ids).square().mean().sqrt())

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes by which a prompt knows its backbone; see `ptune.fingerprint`."""
        return fingerprint_of(self.body, self.tokenizer)

    def fingerprint_without(self, weights: Collection[str]) -> dict[str, str]:
        """The same, whatever stands in the weights of these names in the model."""
        names = {name.removeprefix(self._prefix) for name in weights}
        return fingerprint_of(self.body, self.tokenizer, names)
