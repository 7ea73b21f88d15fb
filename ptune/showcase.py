"""The demo: the main job, end to end, on what travels with ptune."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptune.api import predict
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import answers_of, load_rows
from ptune.demo import folder
from ptune.evaluation import evaluate_examples
from ptune.parts import Soft
from ptune.tasks import Prediction
from ptune.template import Template
from ptune.training import Result, load_backbone, train_recipe
from ptune.training.job import task_of
from ptune.training.report import Watcher

# Two messages that stand in neither file.
EXAMPLES = (
    "why does ice float, is it lighter than water??",
    "Could someone check my essay on why the peasants rose against the king?",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo shows.

    Args:
        untuned: accuracy of the backbone with the template's words alone.
        majority: accuracy of always answering the larger class.
        folder: where the prompt was written.
    """

    result: Result
    untuned: float
    majority: float
    backbone_parameters: int
    examples: list[tuple[str, Prediction]]
    folder: Path


def run_demo(output: Path, *, watcher: Watcher | None = None) -> Outcome:
    """Train on 150 messages, test on 250 others, and compare with the untuned backbone."""
    recipe = demo_recipe(output)
    result = train_recipe(recipe, watcher=watcher)
    backbone = load_backbone(recipe)
    test = load_rows(str(folder() / "test.csv"))
    answers = [str(answer) for answer in answers_of(test, "label", "single-label")]
    counts = Counter(answers)
    words = [p for p in Template.parse(result.prompt.template).parts if not isinstance(p, Soft)]
    plain = Template.parse("".join(map(str, words)))
    task = task_of(recipe.resolved(), plain, backbone, result.prompt.labels)
    untuned = evaluate_examples(
        backbone, PromptTensors(), task, None, task.examples(test, answers), batch_size=32
    )
    said = predict(backbone, result.prompt, list(EXAMPLES))
    return Outcome(
        result=result,
        untuned=untuned.scores["accuracy"],
        majority=max(counts.values()) / len(answers),
        backbone_parameters=backbone.parameters,
        examples=list(zip(EXAMPLES, said, strict=True)),
        folder=output / "prompt",
    )


def demo_recipe(output: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The demo's recipe, with its files where this installation has them."""
    place = folder()
    files = [f"train={place / 'train.csv'}", f"test={place / 'test.csv'}", f"output={output}"]
    return Recipe.load(
        place / "recipe.yaml",
        [*files, *overrides],
        required=("backbone",),
    )
