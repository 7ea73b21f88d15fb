r"""The language-model head of a model as a function: what it would say at a few states.

    head(states)             # over the whole vocabulary
    head.over(states, ids)   # over some tokens: where the head allows it, by their rows alone

A head is more than one matrix in many models (a dense layer before it, a soft cap or a scale behind
it), so the model's own `forward` computes it, with its body replaced by the states at hand.

Next: `ptune.inject.words` asks it, once for all that is the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoEModelOutput, Seq2SeqMoEModelOutput

from ptune.inject.devices import device_of
from ptune.inject.forwards import replace_forward
from ptune.inject.probe import close
from ptune.inject.sides import is_two_sided
from ptune.inject.turns import turn

# Logits that stand in memory at once: 128 MB in float32, and as much again for their gradient.
LOGITS_AT_ONCE = 2**25
# Reads and tokens on which a head over some tokens is compared with the whole head.
TRIED_READS, TRIED_TOKENS = 2, 3

States = Float[Tensor, "reads hidden"]
Logits = Float[Tensor, "reads tokens"]


class LanguageHead:
    """The head of a model as a function: states in, logits out, exactly as the model makes them.

    Args:
        model: with a language-model head.
        output: class of what its body returns.
    """

    def __init__(self, model: PreTrainedModel, output: type[Any]) -> None:
        self.model = model
        matrix = model.get_output_embeddings()
        self.vocabulary = int(getattr(matrix, "out_features", 0) or len(matrix.weight))
        self._body = _body_of(model)
        # What is replaced may be more than what `ptune.run` calls: both sides of a model. (With
        # experts or without: the output with experts has the fields of both.)
        both = is_two_sided(model) and self._body is not model.get_decoder()
        self.output = Seq2SeqMoEModelOutput if both else output
        self._narrows: bool | None = None

    def __call__(self, states: States) -> Logits:
        """Logits over the whole vocabulary."""
        # Stacked, not [None]: the hooks of a sharded body (FSDP) warn of views.
        line = torch.stack([states])
        # A model for pre-training asks its body for a pooled state, too: its words need none.
        pools = "pooler_output" in {field.name for field in fields(self.output)}
        pooled = {"pooler_output": line[:, 0]} if pools else {}
        answer = self.output(last_hidden_state=line, **pooled)
        with turn(self.model), _instead(self._body, lambda *args, **kwargs: answer):
            ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
            inputs = _inputs(self.model, ids)
            return _logits(self.model(**inputs, use_cache=False, return_dict=True))[0]

    @property
    def is_trained(self) -> bool:
        """Whether any weight of the model is: then the head's may be, tied to the embeddings."""
        return any(weight.requires_grad for weight in self.model.parameters())

    @property
    def reads_at_once(self) -> int:
        """At how many reads all logits may stand in memory."""
        return max(1, LOGITS_AT_ONCE // self.vocabulary)

    def over(self, states: States, tokens: Int[Tensor, " tokens"]) -> Logits:
        """Logits of some tokens; where the head allows it, by their rows of its matrix alone."""
        if self._narrows is None:
            self._narrows = self._can_narrow(states)
        if not self._narrows:
            size = self.reads_at_once
            chunks = [states[at : at + size] for at in range(0, len(states), size)]
            return torch.cat([self(chunk)[:, tokens] for chunk in chunks])
        return self._narrowed(states, tokens)

    def _narrowed(self, states: States, tokens: Int[Tensor, " tokens"]) -> Logits:
        matrix = self.model.get_output_embeddings()
        weight = matrix.weight[tokens]
        bias = None if matrix.bias is None else matrix.bias[tokens]
        with (
            turn(self.model),
            _instead(matrix, lambda inner: functional.linear(inner, weight, bias)),
        ):
            return self(states)

    @torch.no_grad()
    def _can_narrow(self, like: States) -> bool:
        """Whether the head is a plain matrix and the model treats each of its logits alone.

        Tried on states of its own, so that the model decides and not the rows of a run: a resumed
        run goes the same way.
        """
        matrix = self.model.get_output_embeddings()
        if type(matrix) is not nn.Linear or "forward" in matrix.__dict__:
            return False
        if type(matrix.weight) is not nn.Parameter:
            return False
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(TRIED_READS, like.shape[1], generator=generator)
        states = drawn.to(like.device, matrix.weight.dtype)
        # Neither the first nor the last: a model may treat those apart.
        tokens = torch.linspace(1, self.vocabulary - 2, TRIED_TOKENS, device=like.device).long()
        with torch.autocast(like.device.type, enabled=False):
            whole = self(states)[:, tokens]
            try:
                return close(self._narrowed(states, tokens), whole)
            except Exception:  # whatever a model's code raises that counts on all of its logits
                return False


@contextmanager
def _instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else for the time of the context."""
    undo = replace_forward(module, forward)
    try:
        yield
    finally:
        undo()


class _Found(Exception):
    """Ends a forward pass: what was looked for is found."""


def _body_of(model: PreTrainedModel) -> nn.Module:
    """The module that `model.forward` calls for its final states.

    Found by calling: the first one called that holds a list of layers. (It is not `base_model` in
    every family: OPT's forward calls the decoder inside it.)
    """
    found: list[nn.Module] = []

    def stop(module: nn.Module, args: object) -> None:
        found.append(module)
        raise _Found

    inner = [module for module in model.modules() if module is not model and _has_layers(module)]
    hooks = [module.register_forward_pre_hook(stop) for module in inner]
    try:
        device = device_of(model.get_input_embeddings())
        model(**_inputs(model, torch.zeros(1, 1, dtype=torch.long, device=device)))
    except _Found:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found[0]


def _inputs(model: PreTrainedModel, ids: Int[Tensor, "one tokens"]) -> dict[str, Any]:
    """The ids, and what keeps an encoder-decoder from running its encoder: a head looks at none."""
    if not is_two_sided(model):
        return {"input_ids": ids}
    nothing = torch.zeros(1, 1, 1, device=ids.device)
    return {"decoder_input_ids": ids, "encoder_outputs": MoEModelOutput(nothing)}


def _logits(output: Any) -> Float[Tensor, "one reads tokens"]:
    """The logits over words, which models for pre-training (BERT) call otherwise."""
    logits: Tensor | None = getattr(output, "prediction_logits", None)
    return output.logits if logits is None else logits


def _has_layers(module: nn.Module) -> bool:
    return any(isinstance(part, nn.ModuleList) for part in module.modules())
