"""Where a prompt starts: vectors, and keys and values, taken from what the backbone already knows.

    random        noise of the size of the backbone's own embeddings, or keys and values
    vocabulary    embeddings of words drawn at random
    text          embeddings (or the real keys and values) of a text that says the task; in slots
                  that are left, words drawn at random (in deep prompts of encoders: noise)
    labels        the same of the label words
    a SoftPrompt  its vectors, or its keys and values

"auto" is text where there is one, else the template's own words and the labels. `bench/defaults.py`
and `bench/gap.py` measure what a start is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.encoders import KeysValues, SiteScale, random_vectors, sample_vocabulary
from ptune.errors import ConfigError
from ptune.prompt import SoftPrompt
from ptune.run import keys_values_of


@dataclass(frozen=True, slots=True)
class Start:
    """What a prompt starts from.

    Args:
        kind: one of the words above, or "prompt".
        ids: tokens of the text or of the label words; empty for other kinds.
        prompt: for kind "prompt".
    """

    kind: str
    ids: tuple[int, ...] = ()
    prompt: SoftPrompt | None = None


def initial_vectors(
    backbone: Backbone, start: Start, slots: int, generator: torch.Generator
) -> Float[Tensor, "slots width"]:
    """The input vectors that a shallow prompt starts from: a text's are cut or filled up."""
    if start.kind == "prompt":
        assert start.prompt is not None
        return _vectors_of(start.prompt, slots, backbone.geometry.width)
    if start.ids:
        return backbone.embed(_filled(backbone, start.ids, slots, generator)).cpu()
    if start.kind == "vocabulary":
        # Tokenizers list common tokens first; the source draws among the 5,000 most common.
        count = min(len(backbone.tokenizer), backbone.geometry.num_embeddings, 5000)
        return sample_vocabulary(backbone.embed(range(count)), slots, generator)
    return random_vectors(slots, backbone.geometry.width, backbone.embedding_scale, generator)


def _vectors_of(prompt: SoftPrompt, slots: int, width: int) -> Float[Tensor, "slots width"]:
    if prompt.vectors is None:
        raise ConfigError(
            "init: the prompt to start from has no input vectors (it is a deep prompt). "
            "Start from a prompt of method prompt-tuning or p-tuning."
        )
    if prompt.vectors.shape[1] != width:
        raise ConfigError(
            f"init: the prompt to start from has vectors of width {prompt.vectors.shape[1]}, "
            f"the backbone's embeddings have {width}. Start from a prompt for this backbone."
        )
    rows = torch.arange(slots) % len(prompt.vectors)
    return prompt.vectors[rows].float()


@dataclass(frozen=True, slots=True)
class DeepStart:
    """Keys and values of the chosen sites, and the sizes in which their parameters are stored."""

    initial: list[KeysValues]
    scales: list[SiteScale]
    offset: int


def initial_keys_values(
    backbone: Backbone,
    start: Start,
    slots: int,
    sites: Sequence[int],
    generator: torch.Generator,
) -> DeepStart:
    """The keys and values that a deep prompt starts from.

    The sizes (root mean square of real keys and of real values, site by site) come from a text in
    any case: they make one learning rate fit every layer and every backbone.
    """
    limit = backbone.geometry.max_tokens
    if not backbone.geometry.relative and limit is not None and slots >= limit:
        raise ConfigError(
            f"prompt_length = {slots}: the backbone has {limit} positions, and keys and values "
            "that start from a text take one each. Choose a shorter prompt."
        )
    real = keys_values_of(backbone, _filled(backbone, start.ids, slots, generator))
    kept = [_on_cpu(real.deep[site]) for site in sites]
    scales = [SiteScale(_size(kv.keys), _size(kv.values)) for kv in kept]
    offset = real.offset if backbone.geometry.causal else 0
    if start.kind == "prompt":
        assert start.prompt is not None
        return DeepStart(_deep_of(start.prompt, slots, sites), scales, start.prompt.offset)
    # What fills the slots behind a short text was tried: in decoders real words did better than
    # noise, in encoders noise better than words.
    spoken = backbone.geometry.causal and bool(start.ids)
    if spoken or start.kind == "vocabulary" or len(start.ids) >= slots:
        return DeepStart(kept, scales, offset)
    noise = [
        KeysValues(_noise(kv.keys, k, generator), _noise(kv.values, v, generator))
        for kv, (k, v) in zip(kept, scales, strict=True)
    ]
    if not start.ids:
        return DeepStart(noise, scales, 0)
    text = keys_values_of(backbone, start.ids).deep
    begun = [_begun(_on_cpu(text[site]), kv) for site, kv in zip(sites, noise, strict=True)]
    return DeepStart(begun, scales, offset)


def _begun(text: KeysValues, noise: KeysValues) -> KeysValues:
    """Keys and values of a text, and noise behind them in the slots that are left."""
    both = zip(text, noise, strict=True)
    return KeysValues(*(torch.cat([own, more[len(own) :]]) for own, more in both))


def _filled(
    backbone: Backbone, ids: Sequence[int], slots: int, generator: torch.Generator
) -> tuple[int, ...]:
    """The tokens of a text, cut to `slots`, or followed by words drawn at random.

    So the source does with class labels (Lester et al. 2021, arXiv:2104.08691). The text again
    would give slots that start alike, get nearly equal gradients and so stay alike for long.
    """
    return (*ids[:slots], *_drawn_ids(backbone, max(0, slots - len(ids)), generator))


def _drawn_ids(backbone: Backbone, slots: int, generator: torch.Generator) -> tuple[int, ...]:
    count = min(len(backbone.tokenizer), backbone.geometry.num_embeddings)
    return tuple(torch.randint(count, (slots,), generator=generator).tolist())


def _on_cpu(kv: KeysValues) -> KeysValues:
    return KeysValues(kv.keys.cpu(), kv.values.cpu())


def _size(heads: Float[Tensor, "slots kv_heads head_dim"]) -> float:
    return float(heads.square().mean().sqrt())


def _noise(
    like: Float[Tensor, "slots kv_heads head_dim"], size: float, generator: torch.Generator
) -> Float[Tensor, "slots kv_heads head_dim"]:
    return size * torch.randn(like.shape, generator=generator)


def _deep_of(prompt: SoftPrompt, slots: int, sites: Sequence[int]) -> list[KeysValues]:
    missing = [site for site in sites if site not in prompt.deep]
    if missing:
        raise ConfigError(
            f"init: the prompt to start from has no keys and values at attention site "
            f"{missing[0]}. Start from a prompt of method p-tuning-v2 with the same layers."
        )
    found = []
    for site in sites:
        keys, values = prompt.deep[site]
        rows = torch.arange(slots) % len(keys)
        found.append(KeysValues(keys[rows].float(), values[rows].float()))
    return found


def text_ids(backbone: Backbone, text: str) -> tuple[int, ...]:
    """The tokens of a text that a prompt starts from, without special tokens.

    Raises:
        ConfigError: the text has no token.
    """
    ids = tuple(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise ConfigError(f"init_text: {text!r} has no token. Give a text of some words.")
    return ids
