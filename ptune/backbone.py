"""The backbone: a frozen transformer with its tokenizer, and what the probe found of it.

    backbone = Backbone.load("bigscience/bloomz-560m")
    backbone.geometry.sites         # its attention sites, in order
    backbone.fingerprint            # refuses prompts that were made for another model

Weights are bit for bit the same before and after everything that ptune does. Knows no prompt:
`ptune.run` brings the two together.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, logging

from ptune.batch import Batch, TokenSequence, pack
from ptune.demo import resolve
from ptune.errors import BackboneError
from ptune.inject import Geometry, Injection, LanguageHead, injected, probe

# Values of each weight that enter the fingerprint: enough to tell a fine-tuned copy from its
# origin, few enough to be read in a moment from a model of any size.
SAMPLES_PER_WEIGHT = 64

# Where the sentence-transformers library keeps how the states of a model were pooled in training.
POOLING_FILE = "1_Pooling/config.json"
Pooling = Literal["first", "last", "mean"]


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
        self.model = _with_softcap(model.requires_grad_(False).eval())
        self.tokenizer = tokenizer
        self.name = name
        self.geometry: Geometry = probe(self.body)
        # An encoder's first token is made to stand for the row; a decoder's last one has seen it.
        self.pooling: Pooling = pooling or ("last" if self.geometry.causal else "first")
        self.gradient_checkpointing = False
        self._language_head: LanguageHead | None = None

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
        device_map: Any = None,
    ) -> "Backbone":
        """Load and freeze a model.

        Args:
            source: hub name, local folder, "ptune-tiny" (the model that travels with ptune), or a
                model in memory (then give its tokenizer too).
            dtype: "auto" is float32 on a CPU and the stored one elsewhere.
            device: "auto" takes a GPU where there is one.
            trust_remote_code: run code that comes with the model. Off unless asked.
            offline: never ask the hub.
            quantization: a transformers quantisation config, passed through.
            device_map: as in transformers; for models larger than one device.
        Raises:
            BackboneError: not found, not loadable, or of a family that ptune cannot reach yet.
        """
        if isinstance(source, nn.Module):
            return cls._of_object(source, tokenizer)
        place = _device(device)
        folder = resolve(str(source))
        options: dict[str, Any] = {
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "local_files_only": offline or Path(folder).is_dir(),
        }
        weights: dict[str, Any] = {
            "dtype": _dtype(dtype, place),
            "quantization_config": quantization,
            "device_map": device_map,
        }
        try:
            with _quiet(folder):
                model = _pretrained(folder, options, weights)
                if tokenizer is None:
                    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
                pooling = _trained_pooling(folder, options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BackboneError(_cannot_load(source, trust_remote_code, error)) from error
        if device_map is None and quantization is None:
            model = model.to(place)
        return cls(model, tokenizer, str(source), pooling=pooling)

    @classmethod
    def _of_object(cls, model: PreTrainedModel, tokenizer: Any) -> "Backbone":
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
        return self.model.base_model

    @property
    def device(self) -> torch.device:
        """Where ids go in."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the input embeddings."""
        return self.model.get_input_embeddings().weight.dtype

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
        return injected(self.model, self._sites, checkpointing=self.gradient_checkpointing)

    @cached_property
    def _sites(self) -> tuple[Any, ...]:
        """Sites by their names within the whole model; the probe saw the body alone."""
        if self.body is self.model:
            return self.geometry.sites
        prefix = next(n for n, m in self.model.named_modules() if m is self.body)
        return tuple(replace(s, name=f"{prefix}.{s.name}") for s in self.geometry.sites)

    def pack(self, sequences: Sequence[TokenSequence]) -> Batch:
        """Lay sequences out as this backbone needs them: packed, or padded where it must be."""
        return pack(sequences, share=self.geometry.causal, padded=self.geometry.padded)

    @torch.no_grad()
    def embed(self, ids: Sequence[int] | Int[Tensor, " tokens"]) -> Float[Tensor, "tokens width"]:
        """The input embeddings of ordinary tokens, scaled as the model scales them, in float32."""
        index = torch.as_tensor(ids, device=self.device)
        return self.model.get_input_embeddings()(index[None])[0].float()

    @cached_property
    def embedding_scale(self) -> float:
        """Typical size of one number of an input embedding (root mean square)."""
        count = min(self.geometry.num_embeddings, 4096)
        ids = torch.linspace(0, self.geometry.num_embeddings - 1, count).long()
        return float(self.embed(ids).square().mean().sqrt())

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes by which a prompt knows its backbone.

        `architecture`: names and shapes of the body's weights. `weights`: a sample of each, rounded
        to bfloat16, so that float32 and bfloat16 copies of a model agree. `tokenizer`: its
        vocabulary and special tokens.
        """
        shapes, values = hashlib.sha256(), hashlib.sha256()
        shapes.update(type(self.body).__name__.encode())
        for name, weight in sorted(self.body.named_parameters()):
            shapes.update(f"{name}{tuple(weight.shape)}".encode())
            values.update(_sample(weight))
        words = json.dumps(
            [sorted(self.tokenizer.get_vocab().items()), self._special_tokens()],
            ensure_ascii=False,
        )
        return {
            "architecture": shapes.hexdigest()[:32],
            "weights": values.hexdigest()[:32],
            "tokenizer": hashlib.sha256(words.encode()).hexdigest()[:32],
        }

    def _special_tokens(self) -> dict[str, str]:
        return {k: str(v) for k, v in sorted(self.tokenizer.special_tokens_map.items())}


def _sample(weight: Tensor) -> bytes:
    if not weight.is_floating_point():  # quantised: its numbers depend on the method
        return b""
    flat = weight.detach().flatten()
    step = max(1, len(flat) // SAMPLES_PER_WEIGHT)
    picked = flat[::step][:SAMPLES_PER_WEIGHT].to("cpu", torch.bfloat16).contiguous()
    return bytes(picked.view(torch.uint8).tolist())


def _pretrained(
    folder: str, options: Mapping[str, Any], weights: Mapping[str, Any]
) -> PreTrainedModel:
    config = transformers.AutoConfig.from_pretrained(folder, **options)
    return _auto_class(config).from_pretrained(folder, config=config, **options, **weights)


def _trained_pooling(folder: str, options: Mapping[str, Any]) -> Pooling | None:
    """The pooling that a sentence encoder was trained with; None for any other model."""
    found = cached_file(
        folder,
        POOLING_FILE,
        revision=options["revision"],
        local_files_only=options["local_files_only"],
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return None
    said = json.loads(Path(found).read_text(encoding="utf-8"))
    names: dict[str, Pooling] = {"cls_token": "first", "lasttoken": "last", "mean_tokens": "mean"}
    return next((ours for name, ours in names.items() if said.get(f"pooling_mode_{name}")), None)


@contextmanager
def _quiet(folder: str) -> Iterator[None]:
    """No progress bar for what is on this machine already: it is there in a moment."""
    shown = logging.is_progress_bar_enabled()
    if Path(folder).is_dir():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _with_softcap(model: PreTrainedModel) -> PreTrainedModel:
    """transformers 5.17 runs Gemma 2 with SDPA, which drops its soft-cap; later ones do as here."""
    config = model.config
    if getattr(config, "attn_logit_softcapping", None) and config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
    return model


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _auto_class(config: Any) -> Any:
    """The class with the head that the weights were saved with, where tasks can use one."""
    name = (getattr(config, "architectures", None) or [""])[0]
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        return transformers.AutoModelForMaskedLM
    return transformers.AutoModel


def _cannot_load(source: str | Path, trusted: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    hint = "Give a local folder with config.json, or the name of a model on the Hugging Face hub"
    if "trust_remote_code" in str(error) and not trusted:
        hint = "It wants to run code of its own; if you trust it, set trust_remote_code=true"
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        hint += " that is already in the cache (HF_HUB_OFFLINE is set)"
    return f'Backbone "{source}" cannot be loaded: {reason} {hint}.'
