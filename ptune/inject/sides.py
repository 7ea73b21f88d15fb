"""The two sides of an encoder-decoder: which modules they are, and how they run after each other.

    states = encoder(ids)                    every token sees its whole row
    decoder(ids, encoder states)             causal, and every token sees its row's encoder side

A model of one side is run as it is. The model's own code puts the two together in other ways, some
with a head (T5's body cannot be had without it), so ptune calls the two sides themselves.
"""

from typing import Any

from transformers import PreTrainedModel

from ptune.errors import ArchitectureError


def is_two_sided(model: PreTrainedModel) -> bool:
    """Whether it is an encoder-decoder."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def input_embeddings(model: PreTrainedModel) -> list[Any]:
    """Every module that turns ids into vectors, the one that rows go through first.

    An `nn.Embedding`, or what PEFT has put around one.

    An encoder-decoder has one a side (and often a third that only holds the weight of both).

    Raises:
        ArchitectureError: a side does not say which module it is.
    """
    if not is_two_sided(model):
        return [model.get_input_embeddings()]
    sides = (model.get_encoder(), model.get_decoder(), model)
    try:
        found = {id(m): m for m in (side.get_input_embeddings() for side in sides)}
    except (AttributeError, NotImplementedError) as error:
        raise ArchitectureError(
            f"{type(model).__name__} cannot be used: its two sides do not say which modules their "
            "input embeddings are."
        ) from error
    return list(found.values())


def run_body(body: PreTrainedModel, inputs: dict[str, Any]) -> Any:
    """What the model without its head gives: of an encoder-decoder, what its decoder gives."""
    if "decoder_input_ids" not in inputs:
        return body(**inputs)
    first = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    states = body.get_encoder()(**first).last_hidden_state
    return body.get_decoder()(
        input_ids=inputs["decoder_input_ids"], encoder_hidden_states=states, use_cache=False
    )
