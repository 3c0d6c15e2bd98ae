"""The recipe `smoke` as a user runs it: the real command, real stages, real servers; then everything about the result.

It has a bad day: `kill -9` in the middle of SFT, again in the middle of RLVR, and the same command each time. The one
result serves all tests of this file. Numbers of learning are asked of `nano`; here the parts must be real and agree.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
RINGFLOW = Path(sys.executable).parent / "ringflow"


def ringflow(*arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess:
    return subprocess.run(
        [RINGFLOW, *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=timeout
    )


def killed_at(stage: str, metric: str, step: int, deadline_s: float = 600) -> None:
    """Runs the recipe until MLflow has `metric` of `stage` up to `step`, then kills the flow's process."""
    flow = subprocess.Popen([RINGFLOW, "run", "smoke"], cwd=ROOT, env=os.environ, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + deadline_s
        while max((found for found, _ in points(stage, metric)), default=-1) < step:
            assert flow.poll() is None, f"the run ended before step {step} of {stage}"
            assert time.monotonic() < ends, f"{stage} did not reach step {step} in {deadline_s} s"
            time.sleep(0.3)
    finally:
        flow.send_signal(signal.SIGKILL)
        flow.wait(30)


def points(stage: str, metric: str, times: bool = False) -> list[tuple[int, float]]:
    """[(step, value)] of a stage of the recipe from MLflow, or its time in seconds in place of the value."""
    from components.lineage.tracker import Tracker

    tracker = Tracker.open()
    wanted = f"tags.`ringflow.stage` = '{stage}' AND tags.`ringflow.recipe` = 'smoke'"
    found = tracker.client.search_runs([tracker.experiment_id], wanted)
    assert len(found) <= 1, f"{len(found)} runs of {stage}"
    logged = tracker.client.get_metric_history(found[0].info.run_id, metric) if found else []
    return sorted((point.step, point.timestamp / 1e3 if times else point.value) for point in logged)


@pytest.fixture(scope="module")
def run(stack) -> dict:
    killed_at("sft", "loss", 60)
    killed_at("rlvr-2", "reward/mean", 1)
    done = ringflow("run", "smoke", "--json")
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def summaries(run: dict) -> dict[str, dict]:
    return {stage["stage"]: stage["summary"] for stage in run["stages"]}


def test_after_two_kills_only_what_was_missing_is_computed(run: dict) -> None:
    states = {stage["stage"]: stage["state"] for stage in run["stages"]}
    assert len(states) == 14
    assert {states[stage] for stage in ("corpus", "decontaminate", "base", "sft", "rlvr-1")} == {"reused"}
    assert {states[stage] for stage in ("rlvr-2", "rlhf", "evaluate-rlhf", "release")} == {"done"}


def test_killed_stages_went_on_from_their_last_checkpoint(run: dict) -> None:
    """Every step stands once, and the steps before the kill kept the time they were first logged."""
    for stage, metric in (("sft", "loss"), ("rlvr-2", "reward/mean")):
        steps, moments = zip(*points(stage, metric, times=True), strict=True)
        assert len(steps) == len(set(steps)), stage
        pause = max(after - before for before, after in itertools.pairwise(moments))
        assert pause > 3, f"{stage} was computed in one go: the kill came too late"


def test_training_lowers_the_loss(run: dict) -> None:
    for stage in ("base", "sft"):
        losses = [value for _, value in points(stage, "loss")]
        assert all(map(math.isfinite, losses))
        assert len(losses) >= 3, stage
        assert losses[-1] < 0.8 * losses[0], stage


def test_rl_samples_with_the_policy_it_trains(run: dict) -> None:
    for stage in ("rlvr-1", "rlvr-2", "rlhf"):
        rewards = points(stage, "reward/mean")
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
    assert summaries["release"]["parity_mean_abs_dlogp"] <= 1e-6
    assert summaries["release"]["parity_p99_abs_dlogp"] <= 1e-5
    assert summaries["release"]["parity_max_abs_dlogp"] <= 1e-4
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


def test_a_known_evaluation_is_found_and_two_are_compared(run: dict) -> None:
    """The released model is rlhf's checkpoint with its data, so the pipeline's own evaluation is the answer."""
    found = ringflow("evaluate", "ring-smoke@released", "--recipe", "smoke", "--json")
    assert found.returncode == 0, found.stderr
    stages = {stage["stage"]: stage for stage in json.loads(found.stdout)["stages"]}
    assert {stage["state"] for stage in stages.values()} == {"reused"}
    known = next(stage for stage in run["stages"] if stage["stage"] == "evaluate-rlhf")
    assert stages["evaluate"]["uri"] == known["uri"]

    done = ringflow("compare", "base", "ring-smoke@released", "--recipe", "smoke", "--json")
    compared = json.loads(done.stdout)
    assert done.returncode == (1 if compared["worse"] else 0), done.stderr
    assert compared["rows"][0]["benchmark"] == "overall"
    assert compared["links"]["Comparison"].endswith("comparison.html")
    assert Path(compared["page"]).read_text().count("<img") == 1


def test_a_standard_benchmark_on_the_released_model(run: dict, tmp_path: Path) -> None:
    """Our engines, a file of the user's."""
    records = tmp_path / "aime.jsonl"
    records.write_text(
        "".join(json.dumps({"id": n, "problem": f"{n}+1=?", "answer": str(n + 1)}) + "\n" for n in range(4))
    )
    options = ("--recipe", "smoke", "--samples", "2", "--max-new-tokens", "24")
    done = ringflow("evaluate", "ring-smoke@released", "-b", f"aime25={records}", *options, "--json")
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert stages["benchmarks"]["summary"] == {"aime25": 4}
    assert (stages["evaluate"]["summary"]["items"], stages["evaluate"]["summary"]["samples"]) == (4, 2)
    lineage = ringflow("lineage", stages["evaluate"]["uri"], "--json")
    assert str(records) in lineage.stdout
