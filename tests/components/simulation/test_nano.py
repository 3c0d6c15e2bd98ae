"""Runs of nano on the same two quiet cores: the rates of one foretell another, of another seed and other settings.

recorded/: rates of a run (`simulate --save-rates`), and what a run took, as MLflow has it. No rates know of the run
that they foretell.
"""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from components.recipe.load import load_recipe
from components.simulation.here import stages_here
from components.simulation.measured import read_rates

RECORDED = Path(__file__).with_name("recorded")
# Stages that all runs did alike: what they differ by is the machine's, and no setting foretells it.
ALIKE = ("corpus", "decontaminate", "evaluate-base", "release")
RECIPES = Path(__file__).parents[3] / "flows" / "recipes"


@pytest.mark.parametrize(("known", "foretold"), list(permutations(("nano-a", "nano-b", "nano-c"), 2)))
def test_a_run_foretells_another_within_15_percent(known: str, foretold: str) -> None:
    rates = read_rates(json.loads((RECORDED / f"{known}.rates.json").read_text()))
    run = json.loads((RECORDED / f"{foretold}.json").read_text())
    recipe = load_recipe("nano", run["overrides"], RECIPES)
    made = stages_here(recipe, [(name, stage["type"]) for name, stage in run["stages"].items()], rates)
    assert sum(stage.sum_s for stage in made) == pytest.approx(run["seconds"], rel=0.15)
    for stage in made:
        if stage.name not in ALIKE:
            measured = run["stages"][stage.name]["seconds"]
            assert stage.sum_s - rates.between_s == pytest.approx(measured, rel=0.15), stage.name
