"""How long a run is where nobody says it."""

import pytest

import ptune
from ptune.training.build import default_epochs


@pytest.mark.parametrize(
    ("rows", "settings", "epochs"),
    [
        (40, {}, 20),  # 60 steps: more would not help
        (800, {}, 20),  # 1,000 steps
        (1200, {}, 14),
        (3200, {}, 5),
        (100_000, {}, 5),
        (1200, {"batch_size": 8}, 7),
        (1200, {"accumulation": 4}, 20),
    ],
)
def test_a_run_takes_about_1000_steps_within_5_and_20_epochs(rows, settings, epochs):
    assert default_epochs(rows, ptune.Recipe.make(**settings).resolved()) == epochs
