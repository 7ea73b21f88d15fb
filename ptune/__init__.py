"""ptune: soft prompts (P-tuning) on frozen Hugging Face transformers.

    import ptune
    backbone = ptune.Backbone.load("bigscience/bloomz-560m")
    result = ptune.train(backbone, "train.csv", method="p-tuning",
                         template="{soft:20}Tweet text : {text} Label : {label}")
    result.prompt.save("complaints")

Names load on first use, so that `ptune --help` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> where it lives.
_HOMES = {
    "Backbone": "ptune.api",
    "BackboneWeights": "ptune.trainable",
    "Evaluation": "ptune.evaluation",
    "Prediction": "ptune.tasks",
    "PromptTensors": "ptune.batch",
    "PromptedBackbone": "ptune.trainable",
    "PtuneError": "ptune.errors",
    "Recipe": "ptune.config",
    "Result": "ptune.training",
    "SoftPrompt": "ptune.prompt",
    "Template": "ptune.template",
    "TokenSequence": "ptune.batch",
    "TrainablePrompt": "ptune.trainable",
    "evaluate": "ptune.api",
    "export_peft": "ptune.formats",
    "import_peft": "ptune.formats",
    "import_thudm": "ptune.formats",
    "predict": "ptune.api",
    "train": "ptune.training",
    "train_replicas": "ptune.training",
    "train_shared": "ptune.training",
}

__all__ = [
    "Backbone",
    "BackboneWeights",
    "Evaluation",
    "Prediction",
    "PromptTensors",
    "PromptedBackbone",
    "PtuneError",
    "Recipe",
    "Result",
    "SoftPrompt",
    "Template",
    "TokenSequence",
    "TrainablePrompt",
    "__version__",
    "encoders",
    "evaluate",
    "export_peft",
    "import_peft",
    "import_thudm",
    "predict",
    "train",
    "train_replicas",
    "train_shared",
]

if TYPE_CHECKING:
    from ptune import encoders as encoders
    from ptune.api import Backbone as Backbone
    from ptune.api import evaluate as evaluate
    from ptune.api import predict as predict
    from ptune.batch import PromptTensors as PromptTensors
    from ptune.batch import TokenSequence as TokenSequence
    from ptune.config import Recipe as Recipe
    from ptune.errors import PtuneError as PtuneError
    from ptune.evaluation import Evaluation as Evaluation
    from ptune.formats import export_peft as export_peft
    from ptune.formats import import_peft as import_peft
    from ptune.formats import import_thudm as import_thudm
    from ptune.prompt import SoftPrompt as SoftPrompt
    from ptune.tasks import Prediction as Prediction
    from ptune.template import Template as Template
    from ptune.trainable import BackboneWeights as BackboneWeights
    from ptune.trainable import PromptedBackbone as PromptedBackbone
    from ptune.trainable import TrainablePrompt as TrainablePrompt
    from ptune.training import Result as Result
    from ptune.training import train as train
    from ptune.training import train_replicas as train_replicas
    from ptune.training import train_shared as train_shared


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "encoders":
        return import_module("ptune.encoders")
    if name not in _HOMES:
        raise AttributeError(f"module 'ptune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
