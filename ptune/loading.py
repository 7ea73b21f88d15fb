"""Loading a model: which class, which device, which format, in one piece or spread out.

    model = pretrained("bigscience/bloom-7b1", Place(device="auto", device_map="auto"), options)

With a device map the weights may lie on several devices, in the machine's memory or on its disk;
accelerate brings each to where it is needed. Knows no prompt; `ptune.backbone` probes what is
loaded here.
"""

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, logging

from ptune.demo import resolve
from ptune.errors import BackboneError, NotLoadedError
from ptune.sharding import SWITCH, hidden

INT8 = "int8"
DTYPES = ("auto", "float32", "bfloat16", "float16")
# What transformers decides by itself; any other text is a device.
_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")

# Where the sentence-transformers library keeps how the states of a model were pooled in training.
POOLING_FILE = "1_Pooling/config.json"
Pooling = Literal["first", "last", "mean"]
DeviceMap = str | Mapping[str, int | str] | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the weights go, and in which format.

    Args:
        device: "auto" takes a GPU where there is one.
        dtype: "auto" is float32 on a CPU and the stored one elsewhere.
        device_map: as in transformers, or "disk"; None puts all on `device`.
        offload_folder: for weights on the disk that are not in safetensors files.
        quantization: "int8", or a transformers quantisation config.
        to_be_sharded: stay on the CPU, since `device` will get a share and could not hold it whole.
    """

    device: str = "auto"
    dtype: str | torch.dtype = "auto"
    device_map: DeviceMap = None
    offload_folder: str | Path | None = None
    quantization: Any = None
    to_be_sharded: bool = False

    def given(self) -> list[str]:
        """Names of the options that differ from their defaults."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]

    @property
    def int8(self) -> bool:
        """Whether ptune itself turns the weights into int8, after loading."""
        return isinstance(self.quantization, str)

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            BackboneError: says what.
        """
        if self.int8 and self.quantization != INT8:
            raise BackboneError(
                f"quantization = {self.quantization} is not known. Allowed: int8, or in Python a "
                "quantisation config of transformers."
            )
        if self.int8 and self.device_map is not None:
            raise BackboneError(
                "quantization = int8 does not go with device_map: the layers are made int8 in "
                "memory. Leave one of the two out."
            )
        if isinstance(self.dtype, str) and self.dtype not in DTYPES:
            raise BackboneError(f"dtype = {self.dtype} is not known. Allowed: {', '.join(DTYPES)}.")
        if self.to_be_sharded and self.device_map is not None:
            raise BackboneError(
                "device_map does not go with --use_fsdp: one process spreads a model by the "
                "first, several by the second. Leave one of the two out."
            )
        if self.device_map is not None and self.device != "auto":
            raise BackboneError(
                f"device = {self.device} does not go with device_map, which says where every "
                'weight goes. Leave device out, or write device_map: {"": ' + f'"{self.device}"}}.'
            )
        _check_map(self.device_map)


def pretrained(folder: str, place: Place, options: Mapping[str, Any]) -> PreTrainedModel:
    """Load a model, with the head that it was saved with, to where `place` says.

    Int8 is made later, from what this returns: weights in their stored format, on the CPU.

    Args:
        options: of transformers, for files: revision and the like.
    """
    device = named_device(place.device)
    weights = {
        "dtype": "auto" if place.int8 and place.dtype == "auto" else _dtype(place.dtype, device),
        "quantization_config": None if place.int8 else place.quantization,
        "device_map": _spread(place.device_map),
        "offload_folder": place.offload_folder,
    }
    with quiet(folder), _every_process_loads():
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        model = _with_its_head(folder, config, {**options, **weights})
    stays = place.device_map is not None or place.quantization is not None or place.to_be_sharded
    return model if stays else model.to(device)


# What `adapters_given` said of a model before it was frozen for the first time.
_adapters: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


def adapters_given(model: PreTrainedModel) -> tuple[str, ...]:
    """The weights that were to be trained when the model came, where others were not."""
    named = dict(model.named_parameters())
    given = tuple(name for name, weight in named.items() if weight.requires_grad)
    if not given:  # another backbone may have frozen it
        return _adapters.get(model, ())
    _adapters[model] = given if len(given) < len(named) else ()
    return _adapters[model]


@contextmanager
def freezing(model: PreTrainedModel) -> Iterator[None]:
    """Freeze a model and put it in eval mode; an error in the context leaves it as it came."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    training = [module for module in model.modules() if module.training]
    attention = model.config._attn_implementation
    with_softcap(model.requires_grad_(False).eval())
    try:
        yield
    except BaseException:
        for weight in trained:
            weight.requires_grad_(True)
        for module in training:
            module.training = True
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        raise


def with_softcap(model: PreTrainedModel) -> PreTrainedModel:
    """transformers 5.17 runs Gemma 2 with SDPA, which drops its soft-cap; later ones do as here."""
    config = model.config
    if getattr(config, "attn_logit_softcapping", None) and config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
    return model


def within(model: nn.Module) -> PreTrainedModel:
    """The model of transformers in what PEFT puts around it; trained LoRA layers stay in it.

    Raises:
        BackboneError: it is no model of transformers, or its wrapping is a soft prompt of PEFT's,
            which would be lost.
    """
    inner: Any = model
    if not isinstance(model, PreTrainedModel) and hasattr(model, "peft_config"):
        if any(config.is_prompt_learning for config in inner.peft_config.values()):
            raise BackboneError(
                "The model carries a soft prompt of PEFT's, which a backbone has no place for. "
                "Load the model without it, and the prompt's folder with `ptune import`."
            )
        inner = inner.get_base_model()
    if isinstance(inner, PreTrainedModel):
        return inner
    raise BackboneError(
        f"{type(model).__name__} is no model of transformers. Give a PreTrainedModel, or PEFT's "
        "PeftModel around one."
    )


def finish_int8(model: PreTrainedModel, place: Place) -> PreTrainedModel:
    """Bring a model whose layers are int8 now to its device; what is left computes in `dtype`."""
    device = named_device(place.device)
    dtype = _dtype(place.dtype, device)
    if place.dtype == "auto" and dtype != "auto":  # else it was loaded so, and scales are not cut
        model = model.to(dtype)
    return model if place.to_be_sharded else model.to(device)


def trained_pooling(folder: str, options: Mapping[str, Any]) -> Pooling | None:
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


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a model alone.

    Args:
        source: hub name, folder, or "ptune-tiny".
    Raises:
        BackboneError: it cannot be loaded.
    """
    folder = resolve(source)
    try:
        with quiet(folder):
            return transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=Path(folder).is_dir()
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise cannot_load(source, False, error) from error


@contextmanager
def quiet(folder: str) -> Iterator[None]:
    """No progress bar for what is on this machine already: it is there in a moment."""
    shown = logging.is_progress_bar_enabled()
    if Path(folder).is_dir():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _every_process_loads() -> Iterator[None]:
    """Weights in every process, also under `accelerate launch --use_fsdp`.

    There transformers would leave all processes but the first without weights, for accelerate to
    send them; ptune shards a model that it has probed, and so one that every process has.
    """
    with hidden(SWITCH):
        yield


def _spread(device_map: DeviceMap) -> Any:
    if isinstance(device_map, str):
        return device_map if device_map in _PLANS else {"": _one_device(device_map)}
    return device_map and {name: _one_device(where) for name, where in device_map.items()}


def _check_map(device_map: DeviceMap) -> None:
    """Refuse a place that is neither a plan, nor the disk, nor a device of this machine."""
    spread = _spread(device_map)
    named = spread.items() if isinstance(spread, dict) else ()
    for module, where in named:
        if where == "disk" or _is_present(where):
            continue
        at = f"{module}: {where}" if module else where
        raise BackboneError(
            f"device_map = {at}: there is no such device here. Allowed: {', '.join(_PLANS)}, "
            "disk, a device of this machine (cpu, cuda:0, ...), or a mapping from modules to "
            "disk and devices."
        )


def _one_device(where: int | str) -> int | str:
    return int(where) if isinstance(where, str) and where.isdigit() else where


def named_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        BackboneError: there is no such device here.
    """
    if name != "auto":
        return _present(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _present(name: str) -> torch.device:
    if not _is_present(name):
        raise BackboneError(
            f"device = {name}: there is no such device here. Name another one, or leave device out."
        )
    return torch.empty(0, device=name).device


def _is_present(device: int | str) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # AssertionError: torch without CUDA
        return False
    return True


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _with_its_head(folder: str, config: Any, options: Mapping[str, Any]) -> PreTrainedModel:
    """The model with the head that its files hold; without one where they hold no weights of it.

    ELECTRA's discriminator is saved "ForPreTraining" as BERT is, and has no head that says words:
    transformers would make one of random numbers.
    """
    kind = _auto_class(config)
    model, found = kind.from_pretrained(folder, config=config, output_loading_info=True, **options)
    body = f"{model.base_model_prefix}."
    if model.base_model is model or all(key.startswith(body) for key in found["missing_keys"]):
        return model
    return transformers.AutoModel.from_pretrained(folder, config=config, **options)


def _auto_class(config: Any) -> Any:
    """The class with the head that the weights were saved with, where tasks can use one."""
    name = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "is_encoder_decoder", False):  # its head is tied or saved, whatever the name
        return transformers.AutoModelForSeq2SeqLM
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        return transformers.AutoModelForMaskedLM
    return transformers.AutoModel


def cannot_load(source: str | Path, trusted: bool, error: Exception) -> NotLoadedError:
    """The error that says why a model was not loaded, and what to do."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    hint = "Give a local folder with config.json, or the name of a model on the Hugging Face hub"
    if "trust_remote_code" in str(error) and not trusted:
        hint = "It wants to run code of its own; if you trust it, set trust_remote_code=true"
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        hint += " that is already in the cache (HF_HUB_OFFLINE is set)"
    return NotLoadedError(f'Backbone "{source}" cannot be loaded: {reason} {hint}.')


def body_with_pooler(source: str) -> PreTrainedModel | None:
    """A model's body with its trained pooler; None where its files hold none."""
    try:
        with quiet(source):
            body, report = transformers.AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError):
        return None
    missing = any("pooler" in name for name in report["missing_keys"])
    return None if missing or getattr(body, "pooler", None) is None else body.eval()


class OwnHead(NamedTuple):
    """The head of a model's own class, without weights.

    Args:
        name: of the module in its class.
        module: the head.
        others: modules with weights that are neither body nor head.
    """

    name: str
    module: nn.Module
    others: tuple[str, ...]


# Name of a task -> the classes of transformers that have a head for it.
_CLASSES = {
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
}


def own_head(config: Any, labels: int, task: str) -> OwnHead | None:
    """What a model's own class for a task has beside its body; None without such a class."""
    config = copy.deepcopy(config)
    config.num_labels = labels
    try:
        with torch.device("meta"):
            model = _CLASSES[task].from_config(config)
    except (ValueError, KeyError):
        return None
    beside = {n: m for n, m in model.named_children() if m is not model.base_model and _weighs(m)}
    name = next((n for n in ("score", "classifier", "qa_outputs") if n in beside), None)
    if name is None:
        return None
    return OwnHead(name, beside[name], tuple(n for n in beside if n != name))


def _weighs(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
