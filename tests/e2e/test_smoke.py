"""The recipe `smoke` as a user runs it: the real command, real stages, real servers; then everything about the result.

One run serves all tests of this file. Numbers of learning are asked of `nano`; here the parts must be real and agree.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
RINGFLOW = Path(sys.executable).parent / "ringflow"


def ringflow(*arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess:
    return subprocess.run(
        [RINGFLOW, *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def run(stack) -> dict:
    done = ringflow("run", "smoke", "--json")
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def summaries(run: dict) -> dict[str, dict]:
    return {stage["stage"]: stage["summary"] for stage in run["stages"]}


@pytest.fixture(scope="module")
def history(run: dict):
    """(stage, metric) -> [(step, value)] from MLflow."""
    from components.lineage.tracker import Tracker

    tracker = Tracker.open()

    def read(stage: str, metric: str) -> list[tuple[int, float]]:
        query = f"tags.`ringflow.stage` = '{stage}'"
        found = tracker.client.search_runs([tracker.experiment_id], query)
        assert len(found) == 1, f"{len(found)} runs of {stage}"
        return [(p.step, p.value) for p in tracker.client.get_metric_history(found[0].info.run_id, metric)]

    return read


def test_every_stage_is_computed(run: dict) -> None:
    assert {stage["state"] for stage in run["stages"]} == {"done"}
    assert len(run["stages"]) == 14


def test_training_lowers_the_loss(history) -> None:
    for stage in ("base", "sft"):
        losses = [value for _, value in sorted(history(stage, "loss"))]
        assert all(map(math.isfinite, losses))
        assert len(losses) >= 3, stage
        assert losses[-1] < 0.8 * losses[0], stage


def test_rl_samples_with_the_policy_it_trains(history) -> None:
    for stage in ("rlvr-1", "rlvr-2", "rlhf"):
        rewards = history(stage, "reward/mean")
        assert rewards, stage
        assert len({step for step, _ in rewards}) == len(rewards), "a step was logged twice"


def test_scores_are_fractions_of_all_answers(summaries) -> None:
    for stage, summary in summaries.items():
        if stage.startswith("evaluate"):
            assert 0 <= summary["overall"] <= 1
            assert summary["errors"] == 0
            assert summary["items"] > 0


def test_release_equals_the_trainer_and_is_registered(summaries) -> None:
    from components.lineage.tracker import Tracker

    assert summaries["release"]["parity_tokens"] > 0
    # The mean says whether it is the same model; single tokens of this barely trained one are worse conditioned.
    assert summaries["release"]["parity_mean_abs_dlogp"] <= 1e-6
    assert summaries["release"]["parity_max_abs_dlogp"] <= 3e-5
    name, alias = summaries["release"]["registered_model"], summaries["release"]["alias"]
    assert Tracker.open().client.get_model_version_by_alias(name, alias)


def test_lineage_reaches_every_data_source(run: dict, summaries) -> None:
    name, alias = summaries["release"]["registered_model"], summaries["release"]["alias"]
    done = ringflow("lineage", f"models:/{name}@{alias}", "--json")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for stage in run["stages"]:
        assert stage["fingerprint"] in text, stage["stage"]
    assert "generator:" in text


def test_bytes_are_those_recorded(run: dict) -> None:
    for stage in run["stages"]:
        done = ringflow("verify", stage["uri"])
        assert done.returncode == 0, done.stdout + done.stderr


def test_report_is_one_page_with_pictures(run: dict) -> None:
    page = Path(run["links"]["Report"]).read_text()
    assert "<img" in page
    assert "rlvr-2" in page


def test_second_run_computes_nothing_and_starts_no_worker(run: dict) -> None:
    plan = json.loads(ringflow("plan", "smoke", "--json").stdout)
    assert {stage["verdict"] for stage in plan["stages"]} == {"HIT"}
    before = os.times()
    done = ringflow("run", "smoke", "--json", timeout=300)
    after = os.times()
    again = json.loads(done.stdout)
    assert {stage["state"] for stage in again["stages"]} == {"reused"}
    assert [stage["uri"] for stage in again["stages"]] == [stage["uri"] for stage in run["stages"]]
    # processor time, because the machine may be busy: on an idle one the wall time is about the same
    assert after.children_user - before.children_user < 30
