"""What ptune imports is imported here first.

The hook that checks types as the tests run looks, while a module of ptune is imported, for compiled
files of its own: torch and transformers, imported within, would be compiled from source each time.
"""

import beartype  # noqa: F401
import pydantic  # noqa: F401
import torch  # noqa: F401
from transformers import GenerationMixin, PreTrainedModel  # noqa: F401
