"""Turns: threads that use one model wait for each other.

    with turn(model):        # a thread that is in its turn may come in again
        ...                  # hooks, forwards and the attention of the model are this thread's

A pass with prompts changes the model's modules for its time, so two threads in one model would read
each other's prompts. Threads of other models do not wait.

Knows nothing of processes: each has a model of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# By the embedding that a model has in common with its body; beside the models, not in them: a lock
# in a module could not be copied.
_turns: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_making = Lock()


@contextmanager
def turn(model: Any) -> Iterator[None]:
    """Wait until no other thread uses the model; keep others out for the time of the context."""
    with _making:
        lock = _turns.setdefault(model.get_input_embeddings(), RLock())
    with lock:
        yield
