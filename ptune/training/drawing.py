"""Random numbers that follow from a seed, whatever else the process draws.

    state = seeded(0, device)
    with drawing_from(state, device):     # one thread at a time: torch's state is the process's
        ...                               # `state` stands behind what was drawn here

Of a CPU and of CUDA devices; other devices draw from streams that are not kept. A layer that is
computed again in a backward pass (gradient checkpointing) draws by itself what it drew.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor

# Of each device that is drawn on, by its kind.
RandomState = dict[str, Tensor]

_turn = RLock()


def seeded(seed: int, device: torch.device) -> RandomState:
    """The state that a seed begins with."""
    with _kept(device):
        torch.manual_seed(seed)
        return _state(device)


@contextmanager
def drawing_from(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw from a state and move it on; the random state outside is as before afterwards."""
    with _kept(device):
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
        yield
        state.update(_state(device))


@contextmanager
def _kept(device: torch.device) -> Iterator[None]:
    with _turn, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _state(device: torch.device) -> RandomState:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state
