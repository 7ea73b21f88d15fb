"""A prompt while it is trained: its encoders and its head, and nothing of the backbone.

    prompt = TrainablePrompt(shallow=LSTMEncoder(...), deep=None, sites=(), head=None)
    prompt.tensors()     # what the backbone needs, with gradients; once a step, never once a row
    prompt.fold()        # the constant that ships; exact

`PromptedBackbone` puts such a prompt on a backbone as one `torch.nn.Module` with a Hugging Face
style `forward`, for `transformers.Trainer` or a loop of your own. Its state dict holds the prompt
and not the backbone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import Encoder, KeysValues, PrefixEncoder
from ptune.errors import ConfigError
from ptune.generation import continue_rows
from ptune.run import run

# What the loss passes over, as everywhere in transformers.
IGNORED = -100
# Options of `generate` that count the tokens of a row and of what is said behind it.
_LENGTHS = ("max_length", "min_length")


class TrainablePrompt(nn.Module):
    """Encoders, head, and the sites that the deep prompt goes to.

    Args:
        shallow: gives the virtual tokens of the template; None where it has none.
        deep: gives keys and values; None for methods without.
        sites: attention sites of `deep`, in its order.
        offset: added to the positions of real tokens (`PromptTensors.offset`).
        head: trained with the prompt; None where the backbone's own is used.
        backbone: the backbone's own weights, or those of its adapters, where they are trained too.
    """

    def __init__(
        self,
        *,
        shallow: Encoder | None = None,
        deep: PrefixEncoder | None = None,
        sites: Sequence[int] = (),
        offset: int = 0,
        head: nn.Module | None = None,
        backbone: "BackboneWeights | None" = None,
    ) -> None:
        super().__init__()
        self.shallow = shallow
        self.deep = deep
        self.head = head
        self.backbone = backbone
        self.sites = tuple(sites)
        self.offset = offset

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def tensors(self) -> PromptTensors:
        """Run the encoders. Their input is constant, so once a step is enough."""
        return PromptTensors(
            vectors=None if self.shallow is None else encode(self.shallow),
            deep=self._keys_values(),
            offset=self.offset,
        )

    def _keys_values(self) -> dict[int, KeysValues]:
        if self.deep is None:
            return {}
        return dict(zip(self.sites, self.deep.split(encode(self.deep)), strict=True))

    def fold(self) -> PromptTensors:
        """The constant that the encoders compute in eval mode, without gradients. Exact."""
        with self.folding():
            return self.tensors()

    @contextmanager
    def folding(self) -> Iterator[None]:
        """Eval mode, without gradients; the mode of each part is as before afterwards."""
        with torch.no_grad(), _evaluating(self):
            yield


class BackboneWeights(nn.Module):
    """The weights of a backbone as part of what is trained: the same tensors, and not the modules.

    So the optimizer, checkpoints and the best step hold them as they hold the prompt, and the
    backbone stays in eval mode: no dropout, unless a pass asks for it.

    Args:
        backbone: its weights are thawed.
        adapters: thaw those alone that were to be trained when the backbone got its model (PEFT's
            LoRA); else all.
    Raises:
        ConfigError: there are no such weights.
    """

    def __init__(self, backbone: Backbone, *, adapters: bool = False) -> None:
        super().__init__()
        if adapters and not backbone.adapters:
            raise ConfigError(
                f'"{backbone.name}" has no adapters to train: when Backbone.load got the model, '
                "its weights were all frozen, or all to be trained. Give one whose adapters alone "
                "require gradients: peft.get_peft_model(model, config), or "
                "PeftModel.from_pretrained(model, folder, is_trainable=True)."
            )
        for name, weight in backbone.model.named_parameters():  # tied ones once
            if not adapters or name in backbone.adapters:
                self.register_parameter(_without_dots(name), weight.requires_grad_(True))

    def named(self) -> dict[str, Tensor]:
        """The weights by their names in the model, detached, on the CPU."""
        return {_with_dots(k): v.detach().cpu() for k, v in self.named_parameters()}

    def by_decay(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Matrices, which weight decay shrinks; biases and norms, which it leaves alone."""
        every = list(self.parameters())
        return [w for w in every if w.ndim > 1], [w for w in every if w.ndim <= 1]


def _without_dots(name: str) -> str:
    """Torch allows no dots in the name of a parameter."""
    return name.replace(".", "/")


def _with_dots(name: str) -> str:
    return name.replace("/", ".")


def encode(encoder: Encoder) -> Float[Tensor, "slots width"]:
    """What an encoder computes for all of its slots, in their order.

    Outside of autocast: what is folded is then what was trained, and there are CPUs on which no
    LSTM runs in 16 bits.
    """
    slots = encoder.slots
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, enabled=False):
        return encoder(torch.arange(slots, device=device)[None])[0]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _check_tokens(ids: Int[Tensor, "batch tokens"], real: Int[Tensor, "batch tokens"]) -> None:
    """Refuse ids below 0, which stand for virtual tokens further down."""
    wrong = ((ids < 0) & real.bool()).nonzero()
    if len(wrong):
        row, at = wrong[0].tolist()
        raise ConfigError(
            f"input_ids: row {row} has {int(ids[row, at])} at token {at}, and no token has an id "
            "below 0. -100 belongs into labels alone; give padding a token, and 0 in the "
            "attention_mask."
        )


class PromptedBackbone(nn.Module):
    """A frozen backbone with a prompt in front: `logits = backbone([prompt; row])`.

    The prompt's virtual tokens stand before the first token, or behind as many as `after` says
    (1 puts them behind `[CLS]`). Output positions are those of the given tokens alone, so labels
    need no shift. Only the prompt's parameters are registered: an optimizer, a checkpoint and DDP
    see a few kilobytes.

    Args:
        backbone: with a language-model head.
        prompt: shallow, deep or both.
        after: tokens of each row that stand before the virtual tokens.
        backbone_dropout: let the backbone's own dropout be on while this module is in train mode.
    Raises:
        ConfigError: the backbone has no language-model head, or is an encoder-decoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: TrainablePrompt,
        *,
        after: int = 0,
        backbone_dropout: bool = False,
    ) -> None:
        super().__init__()
        if not backbone.has_lm_head:
            raise ConfigError(
                f'"{backbone.name}" has no language-model head. Load a model saved with one.'
            )
        if backbone.geometry.two_sided:
            raise ConfigError(
                f'"{backbone.name}" is an encoder-decoder, for whose two sides PromptedBackbone '
                "has no place. Use ptune.train with task: seq2seq-lm."
            )
        self.prompt = prompt
        self.after = after
        self.backbone_dropout = backbone_dropout
        # In a tuple, so that the backbone is no submodule and no checkpoint holds it.
        self._backbone = (backbone,)

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self._backbone[0]

    @property
    def config(self) -> Any:
        """The backbone's configuration, where `transformers` looks for it."""
        return self.backbone.model.config

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
    ) -> dict[str, Tensor]:
        """Logits of every token, and the loss where labels are given.

        Args:
            attention_mask: 0 at padding, left or right; None without padding.
            labels: as in transformers: the same length as `input_ids`, -100 where nothing is to be
                learned. A causal backbone is trained to say the next token.
        Returns:
            `logits` (batch, tokens, vocab), 0 at padding, and `loss`.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        _check_tokens(input_ids, real)
        slots = 0 if self.prompt.shallow is None else self.prompt.shallow.slots
        sequences = [
            self._sequence(row[keep.bool()].tolist(), slots)
            for row, keep in zip(input_ids, real, strict=True)
        ]
        batch = self.backbone.pack(sequences)
        dropout = self.backbone_dropout and self.training
        read = run(self.backbone, [self.prompt.tensors()], batch, read="logits", dropout=dropout)
        logits = read.new_zeros(*input_ids.shape, read.shape[-1])
        logits = logits.masked_scatter(real.bool()[..., None], read)
        if labels is None:
            return {"logits": logits}
        return {"loss": self._loss(logits, labels, real), "logits": logits}

    def generate(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        *,
        inputs_embeds: Float[Tensor, "batch tokens width"] | None = None,
        **options: Any,
    ) -> Any:
        """Continue rows behind the folded prompt, with the model's own `generate`.

        Args:
            attention_mask: 0 at padding, on the left; None without padding.
            inputs_embeds: what the model's embedding would give, in place of `input_ids`.
            options: transformers' own: `max_new_tokens`, `num_beams`, `cache_implementation`,
                `prompt_lookup_num_tokens`, `assistant_model`, `past_key_values` of an earlier
                answer (`cache` from transformers 5.24 on), ... Lengths count real tokens; those
                inside a `generation_config` and in processors of your own count virtual ones as
                well.
        Returns:
            What the model's own `generate` returns: the ids as they were given, and what is said
            behind them; behind vectors, what is said. Of a cache in it, the virtual tokens are a
            part; of attention weights (`output_attentions`), too, and at a deep prompt's sites its
            keys come first.
        Raises:
            ConfigError: the backbone continues no texts, or none from vectors; both or none of
                `input_ids` and `inputs_embeds` are given; a row ends in padding.
        """
        texts = self._texts(input_ids, inputs_embeds)
        if texts.is_floating_point():
            texts = texts.to(self.backbone.dtype)
        real = attention_mask
        if real is None:
            real = torch.ones(texts.shape[:2], dtype=torch.long, device=texts.device)
        if len(ends := (real[:, -1] == 0).nonzero()):
            raise ConfigError(
                f"Row {int(ends[0])} ends in padding, behind which nothing can be said. Pad rows "
                "on the left (tokenizer.padding_side = 'left')."
            )
        if input_ids is not None:
            _check_tokens(input_ids, real)
        prompt = self.prompt.fold()
        whole, mask = self._placed(texts, real, prompt.vectors)
        slots = whole.shape[1] - texts.shape[1]
        longer = {name: options[name] + slots for name in _LENGTHS if options.get(name)}
        said = continue_rows(self.backbone, prompt, whole, mask, {**options, **longer})
        if input_ids is None:
            return said
        rows = said if isinstance(said, Tensor) else said.sequences
        given = input_ids.to(rows).repeat_interleave(len(rows) // len(input_ids), dim=0)
        rows = torch.cat([given, rows[:, whole.shape[1] :]], dim=1)
        if isinstance(said, Tensor):
            return rows
        said.sequences = rows
        return said

    def _texts(
        self,
        ids: Int[Tensor, "batch tokens"] | None,
        vectors: Float[Tensor, "batch tokens width"] | None,
    ) -> Int[Tensor, "batch tokens"] | Float[Tensor, "batch tokens width"]:
        """What is given of the two, where the backbone can continue it."""
        name = self.backbone.name
        if not self.backbone.geometry.causal:
            raise ConfigError(f'"{name}" is an encoder, which continues no text. Load a decoder.')
        if vectors is not None and self.backbone.geometry.also_embedding:
            raise ConfigError(
                f'"{name}" reads token ids in its layers as well, so vectors alone are not enough '
                "for it. Give input_ids."
            )
        given = [one for one in (ids, vectors) if one is not None]
        if len(given) != 1:
            raise ConfigError(
                f"generate: {'both' if given else 'none'} of input_ids and inputs_embeds are "
                "given. Give one of them."
            )
        return given[0]

    def _placed(
        self,
        texts: Int[Tensor, "batch tokens"] | Float[Tensor, "batch tokens width"],
        real: Int[Tensor, "batch tokens"],
        vectors: Float[Tensor, "slots width"] | None,
    ) -> tuple[Tensor, Int[Tensor, "batch whole"]]:
        """The rows with virtual tokens, column by column as they were: a cache goes on fitting.

        Args:
            vectors: of the prompt, which stand for themselves among vectors.
        """
        slots = 0 if vectors is None else len(vectors)
        virtual = -1 - torch.arange(slots, device=texts.device)
        if texts.is_floating_point():
            virtual = texts[0, :0] if vectors is None else vectors.to(texts)
        rows, masks = [], []
        for row, keep in zip(texts, real, strict=True):
            at = int((keep.cumsum(0) <= self.after).sum())
            rows.append(torch.cat([row[:at], virtual.to(row), row[at:]]))
            masks.append(torch.cat([keep[:at], keep.new_ones(slots), keep[at:]]))
        return torch.stack(rows), torch.stack(masks)

    def _sequence(self, ids: list[int], slots: int) -> TokenSequence:
        virtual = tuple(-1 - slot for slot in range(slots))
        whole = (*ids[: self.after], *virtual, *ids[self.after :])
        reads = tuple(at for at, id in enumerate(whole) if id >= 0)
        return TokenSequence(whole, reads=reads, shared=0 if self.after else slots)

    def _loss(self, logits: Tensor, labels: Tensor, real: Tensor) -> Float[Tensor, ""]:
        labels = labels.masked_fill(real == 0, IGNORED)
        if self.backbone.geometry.causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED
        )
