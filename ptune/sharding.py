"""Sharding: the layers of a frozen backbone spread over the processes of a run (FSDP).

    accelerate launch --use_fsdp --num_processes 8 -m ptune train recipe.yaml

Of each layer every process holds one share. The others' shares are fetched when the layer runs,
forward and again backward, and dropped behind it. The rest (embeddings, last norm, head) and the
prompt are whole in every process; the prompt's gradient is averaged as without sharding.

A layer is fetched by all processes together, so all must run the backbone equally often.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import distributed, nn

# What `accelerate launch --use_fsdp` sets for the processes that it starts.
SWITCH = "ACCELERATE_USE_FSDP"


def asked() -> bool:
    """Whether this process was launched, with others, to shard its backbone."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and os.environ.get(SWITCH, "false").lower() in ("true", "1")


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """An environment variable taken away from libraries that would act on it themselves."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def shard(body: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
    """Keep this process' share of each layer, on `device`. The processes know each other already.

    Args:
        body: what holds the layers.
        layers: in the order in which they run.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    held = {id(p) for layer in layers for p in layer.parameters()}
    rest = {p for p in body.parameters() if id(p) not in held}
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # The body brings no weights of its own; it lets its layers fetch ahead of each other.
    fully_shard(body, mesh=mesh, ignored_params=rest)
