"""kill -9 of a real learner, a real engine and Ray's own servers in the middle of an RL step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.artifacts.local import LocalContext

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 840
KEPT = (1, 2)  # the step before the kill, and that step: learners may end it before they miss Ray's head


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, dict]:
    """fault -> what tests.faults.training said of it."""
    directory = tmp_path_factory.mktemp("training")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.training", str(directory)],
            cwd=ROOT,
            env={**kept, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            process.wait(10)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    found = {line["fault"]: line for line in lines}
    assert {"none", "engine", "learner"} <= found.keys(), (directory / "log").read_text()[-3000:]
    return found | {"directory": {"path": directory, "code": process.returncode}}


@pytest.mark.parametrize(
    ("victim", "step"),
    [
        pytest.param(
            "engine",
            1,
            marks=pytest.mark.fault(
                "kill -9 of an engine", "while it draws rollouts", "named, retried; bit for bit the same weights"
            ),
        ),
        pytest.param(
            "learner",
            1,
            marks=pytest.mark.fault(
                "kill -9 of a learner",
                "between two minibatches of a step",
                "named, retried; bit for bit the same weights",
            ),
        ),
    ],
)
def test_a_killed_worker_is_named_and_the_retry_ends_bit_for_bit(victim, step, said) -> None:
    failed = said[victim]
    assert failed["error"] == "InfrastructureError", failed
    assert failed["again"]
    assert f"{victim}[0] died during" in failed["message"]
    assert failed["resumes_from"] == step
    assert failed["seconds"] < 120, "it waited for a dead worker"
    assert said[f"{victim} retried"]["digest"] == said["none"]["digest"]


@pytest.mark.fault("kill -9 of Ray's head", "in the middle of a step", "named or the process ends; resume point kept")
def test_a_run_ends_with_its_ray_and_keeps_its_resume_point(said) -> None:
    place = said["directory"]
    if "head" in said:
        assert said["head"]["error"] in ("InfrastructureError", "DeadlineExceeded"), said["head"]
        assert said["head"]["seconds"] < 240
    else:
        assert place["code"] != 0, "Ray ended the process, which must not look like success"
    assert LocalContext(place["path"] / "head", "rlvr-1", quiet=True).resume.latest().step in KEPT
