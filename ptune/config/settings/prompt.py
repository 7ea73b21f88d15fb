"""What is trained: method, encoder, length, start."""

from functools import partial
from typing import Literal

from pydantic import BaseModel, field_validator

from ptune.config.wording import as_written, at_home, setting, word_or_path

_setting = partial(setting, group="prompt")

INITS = ("auto", "random", "vocabulary", "text", "labels", "paper")


class PromptSettings(BaseModel):
    """The prompt and its encoder."""

    method: Literal["p-tuning", "prompt-tuning", "p-tuning-v2"] = _setting(
        "p-tuning", "Vectors from an encoder, vectors alone, or keys and values at attention sites."
    )
    encoder: Literal["embedding", "lstm", "mlp", "residual"] | None = _setting(
        None, "What makes the vectors while training; null: lstm or embedding, by method."
    )
    prompt_length: int = _setting(
        20, "Virtual tokens of a deep prompt and of the default template.", low=1, high=4096
    )
    init: str = _setting(
        "auto",
        "What the prompt starts from.",
        allowed=f"one of {', '.join(INITS)}, or the path of a saved prompt, with a / in it",
        choices=INITS,
    )
    init_text: str | None = _setting(None, "The text that init: text starts from.")
    encoder_hidden: int | None = _setting(
        None, "Width inside the encoder; null: as its paper has it.", low=1
    )
    encoder_dropout: float = _setting(0.0, "Dropout inside the lstm encoder.", low=0.0, high=0.9)
    projection: int | None = _setting(
        None, "Width of the Tanh network that makes a deep prompt; null: a plain table.", low=1
    )
    layers: tuple[int, ...] | str | None = _setting(
        None,
        "Attention sites of a deep prompt; null: all.",
        allowed="a list of different site numbers from 0, or upper:N",
    )
    sites: tuple[Literal["encoder", "decoder", "cross"], ...] | None = _setting(
        None,
        "Kinds of attention that a deep prompt of an encoder-decoder enters; null: all three.",
        allowed="a list of one or more of encoder, decoder, cross",
    )
    prefix_dropout: float = _setting(
        0.0, "Dropout on the keys and values of a deep prompt.", low=0.0, high=0.9
    )

    @field_validator("init", mode="before")
    @classmethod
    def _home_of_start_is_written_out(cls, value: object) -> object:
        return at_home(value)

    @field_validator("sites", mode="after")
    @classmethod
    def _sites_are_some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not 0 < len(value) == len(set(value)):
            raise ValueError
        return value

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_have_an_order(cls, value: object) -> object:
        return as_written(value)

    @field_validator("init", mode="after")
    @classmethod
    def _init_is_known(cls, value: str) -> str:
        return word_or_path(value, INITS)

    @field_validator("layers", mode="after")
    @classmethod
    def _layers_are_sites(cls, value: tuple[int, ...] | str | None) -> tuple[int, ...] | str | None:
        if isinstance(value, str):
            word, _, count = value.partition(":")
            fits = word == "upper" and count.isascii() and count.isdigit() and int(count) > 0
        else:
            fits = value is None or (0 < len(value) == len(set(value)) and min(value) >= 0)
        if not fits:
            raise ValueError
        return value
