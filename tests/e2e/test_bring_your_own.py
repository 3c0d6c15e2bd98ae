"""docs/bring-your-own.md as a user follows it: a raw file, the page's recipe, a release; then that release as the base.

The road starts from a Hugging Face directory of random weights, so that nothing else must have run; learning is asked
of `nano`, here the parts must fit together. Records are GSM8K-shaped, written here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.components.release.random_model import write_random_model

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "bring-your-own.md"
VALUES = (
    "sft.steps=3",
    "sft.checkpoints=1",
    "evaluate.max_new_tokens=16",
    "decontaminate.semantic=false",
    "execution.engines=1",
    "execution.learners=1",
)
SMALL = tuple(part for value in VALUES for part in ("--set", value))


def page_recipe() -> str:
    """The first YAML block of the page."""
    return re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


def gsm8k(first: int, count: int) -> str:
    """Lines of question and worked answer, as GSM8K stores them."""
    names = ("pens", "books", "shells", "coins", "stamps", "marbles", "cards")
    lines = []
    for n in range(first, first + count):
        a, b, thing = 3 + n, 2 + n * 7 % 13, names[n % len(names)]
        question = (
            f"Tom has {a} {thing}. On day {n} Ann gives him {b} more {thing}. How many {thing} has he in the end?"
        )
        answer = f"He has {a} and gets {b}, which is {a} + {b} = <<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}"
        lines.append(json.dumps({"question": question, "answer": answer}) + "\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's directory: two raw files, a base, the page's recipe."""
    root = tmp_path_factory.mktemp("mine")
    (root / "mine.jsonl").write_text(gsm8k(0, 120))
    (root / "held-out.jsonl").write_text(gsm8k(1000, 8))
    write_random_model(root / "base")
    (root / "mine.yaml").write_text(page_recipe())
    return root


def ringflow(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)


def released(place: Path, *overrides: str) -> dict[str, dict]:
    done = ringflow(place, "run", "mine.yaml", *SMALL, *overrides, "--json")
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}


@pytest.fixture(scope="module")
def first(stack, place: Path) -> dict[str, dict]:
    """From a directory; its name is overridden so that the page's own reference can name the result."""
    return released(place, "--set", "base.uri=base", "--set", "release.model_name=ring-nano")


def test_the_recipe_is_short_and_runs_without_rl(first: dict) -> None:
    assert len(page_recipe().strip().splitlines()) < 20
    names = ["corpus", "decontaminate", "base", "evaluate-base", "sft", "evaluate-sft", "release"]
    assert list(first) == names
    assert {stage["state"] for stage in first.values()} == {"done"}
    assert first["sft"]["summary"]["selection"].startswith("held-out loss")
    assert first["sft"]["summary"]["documents"] > 100


def test_a_release_is_the_base_and_lineage_goes_through_it(first: dict, place: Path) -> None:
    """Up to the stage that reads it: what follows is the road of the first run."""
    second = released(place, "--only", "base")
    assert {name: stage["state"] for name, stage in second.items()} == {
        "corpus": "reused",
        "decontaminate": "reused",
        "base": "done",
    }
    lineage = ringflow(place, "lineage", second["base"]["uri"], "--json").stdout
    assert first["release"]["fingerprint"] in lineage
    assert "mine.jsonl" in lineage
    plan = json.loads(ringflow(place, "plan", "mine.yaml", *SMALL, "--json").stdout)
    verdicts = {stage["stage"]: stage["verdict"] for stage in plan["stages"]}
    assert [verdicts[name] for name in ("corpus", "decontaminate", "base", "sft")] == ["HIT", "HIT", "HIT", "MISS"]


def test_what_it_says_is_heard_and_traced(first: dict, place: Path) -> None:
    chat = ringflow(place, "chat", "models:/ring-nano@released", "-m", "Tom has 3 pens.", "--max-tokens", "8")
    assert "tokens/s" in chat.stdout, chat.stderr
    explained = ringflow(place, "explain", "evaluate-sft/held-out")
    assert "held-out.jsonl" in explained.stdout, explained.stderr
    touched = ringflow(place, "impact", "mine.jsonl", "--json")
    assert first["release"]["fingerprint"] in touched.stdout, touched.stderr


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda recipe: recipe["sft"].update(epoch=3), r"unknown key 'epoch'.*Did you mean 'epochs'"),
        (lambda recipe: recipe["corpus"]["sources"][0].update(uri="odd.jsonl"), r"odd\.jsonl.*layout is unknown"),
        (lambda recipe: recipe["corpus"]["sources"][0].update(uri="no.jsonl"), r"no\.jsonl: no such file"),
        (lambda recipe: recipe["corpus"].pop("benchmarks"), "no benchmark"),
        (lambda recipe: recipe["corpus"]["sources"][0].update(split="rl"), "no source has split sft"),
        (lambda recipe: recipe.update(base={"kind": "import", "uri": "nowhere"}), "base model has no config.json"),
    ],
)  # fmt: skip
def test_slips_are_told_before_a_server_is_asked(place: Path, change, complaint: str, monkeypatch) -> None:
    from components.failures import BadInput
    from flows.request import load_graph

    recipe = yaml.safe_load(page_recipe())
    change(recipe)
    (place / "odd.jsonl").write_text('{"ask": "1+1", "tell": 2}\n')
    (place / "slip.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(place)
    with pytest.raises(BadInput) as told:
        load_graph("slip.yaml", servers=False)
    assert re.search(complaint, str(told.value), re.DOTALL), told.value
