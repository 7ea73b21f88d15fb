"""The keys of a recipe, one file a group: default, range, meaning, each declared once.

    backbone.py   the frozen model           data.py   rows and labels
    task.py       what is asked of a row     prompt.py   what is trained
    training.py   how

`ptune.config.Recipe` is all of them together.
"""

from ptune.config.settings.backbone import BackboneSettings as BackboneSettings
from ptune.config.settings.data import DataSettings as DataSettings
from ptune.config.settings.prompt import PromptSettings as PromptSettings
from ptune.config.settings.task import TaskSettings as TaskSettings
from ptune.config.settings.training import TrainingSettings as TrainingSettings
