"""A recipe either loads completely or says where it is wrong, and every value knows where it came from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.failures import BadInput
from components.recipe.load import load_recipe, read_recipe

RECIPES = Path(__file__).parents[3] / "flows" / "recipes"

MINIMAL = """\
name: tiny
model: {preset: nano}
corpus:
  sources:
    - kind: generator
      pretrain: 1
      sft: 2
      rl: 3
      preference: 4
      benchmark: 8
base:
  kind: pretrain
  optimiser: {lr: 3e-3}
  steps: 5
  tokens_per_step: 64
  sequence_length: 64
sft:
  optimiser: {lr: 2e-4}
  steps: 5
  tokens_per_step: 64
  sequence_length: 64
rlvr:
  - name: math
    domains: [math]
    steps: 2
    rollout: {prompts_per_step: 2, group_size: 2, max_new_tokens: 8}
    optimiser: {lr: 2e-4}
reward_model: {optimiser: {lr: 3e-4}, steps: 2, pairs_per_step: 2, sequence_length: 64}
rlhf:
  steps: 2
  rollout: {prompts_per_step: 2, group_size: 2, max_new_tokens: 8}
  optimiser: {lr: 1e-4}
evaluate: {max_new_tokens: 8}
release: {model_name: tiny}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL)
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_loads_by_name_within_milliseconds(path: Path) -> None:
    load_recipe(path.stem, (), RECIPES)
    began = time.perf_counter()
    assert load_recipe(path.stem, (), RECIPES).name == path.stem
    assert time.perf_counter() - began < 0.25


def test_numbers_are_numbers_in_yaml_1_2_and_types_are_strict(recipe_file: Path) -> None:
    assert load_recipe(recipe_file).sft.optimiser.lr == 2e-4
    assert "valid integer" in complaint(recipe_file, "sft.steps='80'")


def test_unknown_key_names_file_line_key_and_the_near_miss(recipe_file: Path) -> None:
    recipe_file.write_text(
        MINIMAL.replace("  steps: 5\n  tokens_per_step: 64\n  sequence_length: 64\nrlvr", "  stepz: 5\nrlvr")
    )
    text = complaint(recipe_file)
    line = recipe_file.read_text().splitlines().index("  stepz: 5") + 1
    assert f"tiny.yaml:{line}: sft.stepz: unknown key 'stepz'" in text
    assert "Did you mean 'steps'" in text
    assert "tokens_per_step" in text


def test_repeated_key_and_broken_yaml_name_the_line(recipe_file: Path) -> None:
    recipe_file.write_text(MINIMAL + "name: twice\n")
    assert f":{len(MINIMAL.splitlines()) + 1}: name: the key 'name' stands twice (first on line 1)" in complaint(
        recipe_file
    )
    recipe_file.write_text("name: [unclosed\n")
    assert "not valid YAML" in complaint(recipe_file)


def test_overrides_are_typed_reach_list_items_and_say_that_they_are_wrong(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["rlvr.0.steps=3", "rlvr.0.loss={name: tis, cap: 1.5}", "execution.retries=0"])
    assert (recipe.rlvr[0].steps, recipe.rlvr[0].loss.name, recipe.execution.retries) == (3, "tis", 0)
    assert "--set rlvr.4.steps=1" in complaint(recipe_file, "rlvr.4.steps=1")
    assert "unknown key 'lrr'. Did you mean 'lr'?" in complaint(recipe_file, "sft.optimiser.lrr=1")
    assert "'icepup' is not accepted" in complaint(recipe_file, "rlvr.0.loss.name=icepup")
    assert "key.path=value" in complaint(recipe_file, "sft.steps")


def test_a_rehearsal_names_other_domains_and_its_share(recipe_file: Path) -> None:
    kept = load_recipe(recipe_file, ["rlvr.0.rehearsal=0.25", "rlvr.0.rehearsed_domains=[code]"]).rlvr[0]
    assert (kept.rehearsal, kept.rehearsed_domains) == (0.25, ("code",))
    assert "need each other" in complaint(recipe_file, "rlvr.0.rehearsal=0.25")
    assert "need each other" in complaint(recipe_file, "rlvr.0.rehearsed_domains=[code]")
    assert "math is among domains already" in complaint(
        recipe_file, "rlvr.0.rehearsal=0.25", "rlvr.0.rehearsed_domains=[code, math]"
    )
    assert "verifiable_fraction" in complaint(recipe_file, "rlhf.rehearsal=0.25", "rlhf.rehearsed_domains=[math]")


def test_only_the_union_member_that_was_meant_is_discussed(recipe_file: Path) -> None:
    text = complaint(recipe_file, "corpus.sources.0={kind: files, uri: data.jsonl, splt: sft}")
    assert "corpus.sources.0.splt: unknown key 'splt'. Did you mean 'split'?" in text
    assert "pretrain" not in text


def test_origin_of_every_value_is_kept(recipe_file: Path) -> None:
    loaded = read_recipe(recipe_file, ["sft.steps=9"])
    assert loaded.origins["sft.steps"] == "--set sft.steps=9"
    assert loaded.origins["name"].endswith("tiny.yaml:1")
    assert loaded.origins["sft.optimiser.weight_decay"] == "default"
    assert loaded.origins["execution.retries"] == "default"
    assert loaded.values["sft.steps"] == 9
    assert loaded.values.keys() == loaded.origins.keys()


def test_override_of_a_whole_section_is_the_origin_of_what_it_wrote_alone(recipe_file: Path) -> None:
    override = "sft.optimiser={lr: 0.5}"
    loaded = read_recipe(recipe_file, [override])
    assert loaded.below("sft.optimiser")["sft.optimiser.lr"] == {"value": 0.5, "origin": f"--set {override}"}
    others = {entry["origin"] for key, entry in loaded.below("sft.optimiser").items() if not key.endswith(".lr")}
    assert others == {"default"}
    assert set(loaded.below("seed")) == {"seed"}


def test_unknown_recipe_names_the_known_ones(recipe_file: Path) -> None:
    with pytest.raises(BadInput, match="Did you mean 'tiny'"):
        load_recipe("tinny", (), recipe_file.parent)
