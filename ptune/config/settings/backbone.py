"""The frozen model of a run, and where it is held."""

from functools import partial
from typing import Literal

from pydantic import BaseModel, field_validator

from ptune.config.wording import at_home, setting

_setting = partial(setting, group="backbone")


class BackboneSettings(BaseModel):
    """Which model, held in which numbers, on which device."""

    backbone: str | None = _setting(None, "Frozen model: hub name or folder.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto", "Of the backbone's weights; auto: float32 on a CPU, elsewhere as they are stored."
    )
    device: str = _setting("auto", "Where to run: auto, cpu, cuda, cuda:1, mps.")
    device_map: dict[str, str] | str | None = _setting(
        None,
        "For a model larger than one device: what goes where; null: all on device.",
        allowed="auto, balanced, sequential, disk, or a mapping from module to device",
    )
    offload_folder: str | None = _setting(
        None, "For weights that device_map puts on the disk and that are no safetensors files."
    )
    quantization: Literal["int8"] | None = _setting(
        None, "int8 holds the weights of the layers in one byte a number."
    )
    compile: bool = _setting(False, "Compile the layers by torch.compile while training.")
    trust_remote_code: bool = _setting(False, "Run Python code that comes with the model.")
    revision: str | None = _setting(None, "Branch, tag or commit of the model on the hub.")
    offline: bool = _setting(False, "Use what is on this machine only; never ask the hub.")

    @field_validator("backbone", "offload_folder", mode="before")
    @classmethod
    def _home_of_the_model_is_written_out(cls, value: object) -> object:
        return at_home(value)
