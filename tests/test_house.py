"""The arrows of the house hold in every file, and the checker notices when they do not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.house import violations
from tests.run import PARTS, arguments

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    *("flows", "tasks", "components", "infra", "tests", "docs", ".ci"),
    *("README.md", "pyproject.toml", "requirements.lock", "Makefile", "prefect.yaml", ".gitignore", "LICENSE"),
}


def sources() -> list[str]:
    layers = ("components", "tasks", "flows", "infra")
    return sorted(path.relative_to(ROOT).as_posix() for layer in layers for path in (ROOT / layer).rglob("*.py"))


def test_every_file_imports_only_from_below() -> None:
    paths = sources()
    assert len(paths) > 20
    found = [line for path in paths for line in violations(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_nothing_else_lies_at_the_top_level() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} <= TOP_LEVEL


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("components/data/mix.py", "from components.rl.loop import Loop"),
        ("components/data/mix.py", "from components.model import spec"),
        ("components/artifacts/store.py", "import components.lineage.graph"),
        ("components/recipe/base.py", "from components.artifacts.ref import ArtifactRef"),
        ("components/evaluation/table.py", "from components.release.card import CardFacts"),
        ("components/artifacts/store.py", "from components import rewards"),
        ("components/rewards/math.py", "def f():\n    from components.rollout.engine import Engine"),
        ("components/rl/loop.py", "import prefect.tasks"),
        ("components/rl/loop.py", "from prefect import task"),
        ("components/rl/loop.py", "from infra import stack"),
        ("components/rl/loop.py", "from tasks.stage import Stage"),
        ("components/rl/loop.py", "from flows import cli"),
        ("components/rl/loop.py", "from tests.conftest import stack"),
        ("components/rl/loop.py", "from . import losses"),
        ("components/unheard/of.py", "from components.data import mix"),
        ("components/failures.py", "from components.recipe import base"),
        ("tasks/stage.py", "from flows.graph import build"),
        ("tasks/stage.py", "from infra.stack import up"),
        ("flows/cli/main.py", "from tests import house"),
        ("infra/stack/home.py", "from components.artifacts.store import Store"),
        ("infra/stack/home.py", "from flows.cli import main"),
    ],
)
def test_the_checker_sees_a_violation(path: str, source: str) -> None:
    assert violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("components/rl/loop.py", "from components.rewards.types import Reward\nimport torch"),
        ("components/rl/loop.py", "from components.rl.losses import icepop\nfrom components.failures import Diverged"),
        ("components/recipe/base.py", "from components.failures import BadInput"),
        ("tasks/stage.py", "import prefect\nfrom components.rl.loop import Loop\nfrom tasks.node import Node"),
        (
            "flows/cli/main.py",
            "from infra.stack import up\nfrom tasks.stage import STAGES\nfrom flows.graph import build",
        ),
        ("infra/stack/home.py", "from components.failures import BadInput\nfrom infra.stack.ports import free"),
    ],
)
def test_the_checker_lets_pass_what_goes_down(path: str, source: str) -> None:
    assert not violations(path, source)


def test_make_test_runs_every_file_once() -> None:
    assert not [path for paths in PARTS.values() for path in paths if not (ROOT / path).exists()]
    files = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(files) > 100
    parts: dict[Path, list[str]] = {file: [] for file in files}
    for name in PARTS:
        words = arguments(name)
        left_out = [Path(word.partition("=")[2]) for word in words if word.startswith("--ignore=")]
        for file in files:
            around = [file, *file.parents]
            if any(Path(word) in around for word in words) and not any(path in around for path in left_out):
                parts[file].append(name)
    assert {str(file): names for file, names in parts.items() if len(names) != 1} == {}
