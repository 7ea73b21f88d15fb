"""Masks: what a model hides by them alone, heard while it builds them.

    hidden_window(body, sites, lambda: body(input_ids=ids))       8192 for Llama 4, None for Mistral

ptune's attention of packs builds no mask: causality and window come to it from the attention
module. Mistral's modules say their window. Llama 4 has its chunks, and Qwen2-MoE its window, in the
masks alone, so ptune does not see them. In rows that are no longer they hide nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from ptune.inject.session import configs_of, remember_implementation
from ptune.inject.sites import Site

NAME = "ptune_listening"

# The widths that masks were asked for in the pass under way.
_heard: ContextVar[list[int] | None] = ContextVar("heard", default=None)


def hidden_window(
    body: PreTrainedModel, sites: Sequence[Site], run: Callable[[], object]
) -> int | None:
    """The narrowest window, or chunk, that is in the masks of a model and that no site says.

    Args:
        run: a pass of the model; it is let go through PyTorch's own attention.
    """
    # A module with a window to both sides says half its width and one more than the masks have.
    said = {site.window for site in sites} | {site.window - 1 for site in sites if site.window}
    with _listening(body) as heard:
        try:
            run()
        except Exception:  # a model that cannot run this way is judged by its states alone
            return None
    return min((width for width in heard if width not in said), default=None)


@contextmanager
def _listening(body: PreTrainedModel) -> Iterator[list[int]]:
    AttentionInterface.register(NAME, sdpa_attention_forward)
    AttentionMaskInterface.register(NAME, _listen)
    heard: list[int] = []
    token = _heard.set(heard)
    configs = configs_of(body)
    restore = remember_implementation(configs)
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield heard
    finally:
        restore()
        _heard.reset(token)


def _listen(*args: Any, **kwargs: Any) -> Tensor | None:
    heard, width = _heard.get(), kwargs.get("local_size")
    if heard is not None and width is not None:
        heard.append(int(width))
    return sdpa_mask(*args, **kwargs)
