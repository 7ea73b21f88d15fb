"""Training: from a recipe and labelled rows to a folded prompt.

    result = ptune.train(backbone, "train.csv", task="causal-lm",
                         template="{soft:20}Tweet text : {text} Label : {label}")
    result.prompt.save("complaints")

Read `learner.py` and `loop.py` first; `schedule.py` and `checkpoint.py` are why a run can be
stopped anywhere, `replicas.py` trains several prompts at once, `sharing.py` one prompt on several
sets of rows.
"""

from ptune.training.job import Result as Result
from ptune.training.job import load_backbone as load_backbone
from ptune.training.job import train as train
from ptune.training.job import train_recipe as train_recipe
from ptune.training.replicas import train_replicas as train_replicas
from ptune.training.replicas import train_seeds as train_seeds
from ptune.training.sharing import SharedResult as SharedResult
from ptune.training.sharing import train_shared as train_shared
