"""Toy stages on the real stack: real Prefect, MLflow and S3, each test in a project of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.stage import STAGES
from tests.flows import toy

ROOT = Path(__file__).parents[2]


class Toys:
    """What a test does with the toy stages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = f"test-{uuid.uuid4().hex[:10]}"
        self.overrides = [
            f"execution.project={self.project}",
            "execution.retry_delay_s=0.1",
            "execution.retries=1",
            "execution.lease_ttl_s=4",
        ]

    def calls(self) -> Counter[str]:
        """`node step` -> how often that step ran; forgets them."""
        path = self.directory / "calls"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return Counter(lines)

    def fail(self, node: str, kind: str = "Diverged") -> Path:
        path = self.directory / f"fail-{node}"
        path.write_text(kind)
        return path

    def block(self, node: str) -> Path:
        path = self.directory / f"block-{node}"
        path.touch()
        return path

    def blocked(self, node: str) -> bool:
        return (self.directory / f"blocked-{node}").exists()

    def run(self, *overrides: str, **parameters):
        """The recipe `smoke` in this process; what became of every stage."""
        from flows.execute import run_here
        from flows.recipe_flow import ring
        from flows.request import RunRequest
        from tasks.board import Lines

        request = RunRequest(recipe="smoke", overrides=[*self.overrides, *overrides], **parameters)
        return run_here(ring, request, Lines())

    def plan(self, *overrides: str) -> dict[str, tuple[str, str]]:
        from flows.plan import make_plan
        from flows.request import load_graph

        graph, _ = load_graph("smoke", [*self.overrides, *overrides])
        return {p.node: (p.verdict, p.reason) for p in make_plan(graph, os.environ["RINGFLOW_STORE"])}

    def command(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """`ringflow` with toy stages, as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.flows.toy", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def set_options(self) -> list[str]:
        return [part for override in self.overrides for part in ("--set", override)]

    def output(self, result, node: str) -> int:
        """What a node computed."""
        from components.artifacts.store import Store

        ref = next(stage.ref for stage in result.stages if stage.node == node)
        return json.loads(Store.open().fetch(ref, "count.json").read_text())


@pytest.fixture
def toys(stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toys]:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    monkeypatch.setenv("TOY_DIR", str(tmp_path))
    for stage in STAGES.values():  # put back what other tests may have imported
        name = f"tasks.stages.{stage.type.replace('-', '_')}"
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
    toy.install()
    settings = {PREFECT_API_URL: os.environ["PREFECT_API_URL"], PREFECT_HOME: os.environ["PREFECT_HOME"]}
    with temporary_settings(settings):
        yield Toys(tmp_path)
