"""A recipe on real servers: reuse, failure, resume, two runs at once, kill -9, cancelling, the least work each time."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.failures import BadInput, InfrastructureError

pytestmark = pytest.mark.server

NODES = 14


def states(result) -> dict[str, str]:
    return {stage.node: stage.state for stage in result.stages}


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.1)


def test_second_run_reuses_everything_and_plan_says_so_before(toys) -> None:
    assert toys.plan()["corpus"] == ("MISS", "never computed")
    first = toys.run()
    assert first.succeeded
    assert set(states(first).values()) == {"done"}
    assert sum(toys.calls().values()) == NODES * 5
    assert {verdict for verdict, _ in toys.plan().values()} == {"HIT"}
    second = toys.run()
    assert set(states(second).values()) == {"reused"}
    assert not toys.calls()
    assert [stage.ref for stage in second.stages] == [stage.ref for stage in first.stages]
    assert second.links["Report"] == first.links["Report"]


def test_one_changed_value_computes_only_what_is_downstream(toys) -> None:
    toys.run()
    toys.calls()
    plan = toys.plan("rlhf.steps=77")
    assert plan["rlhf"][0] == "MISS"
    assert plan["rlhf"][1] == "rlhf.steps: 3 -> 77"
    changed = toys.run("rlhf.steps=77")
    ran = {call.split()[0] for call in toys.calls()}
    assert ran == {"rlhf", "evaluate-rlhf", "release"}
    assert {node for node, state in states(changed).items() if state == "done"} == ran


def test_failed_stage_resumes_and_nothing_else_runs_again(toys) -> None:
    failure = toys.fail("rlvr-1")
    failed = toys.run()
    assert not failed.succeeded
    assert states(failed)["rlvr-1"] == "failed"
    assert states(failed)["rlvr-2"] == "skipped"
    assert states(failed)["evaluate-sft"] == "done"
    assert "made to fail" in failed.message()
    calls = toys.calls()
    assert calls["rlvr-1 3"] == 1, "a diverged training is not tried again"
    assert toys.plan()["rlvr-1"] == ("RESUME", "goes on from step 2")
    failure.unlink()
    again = toys.run()
    assert again.succeeded
    assert toys.calls().keys() & {"rlvr-1 1", "rlvr-1 2", "sft 1", "corpus 1"} == set()
    assert toys.output(again, "rlvr-1") == 5 + toys.output(again, "sft") + toys.output(again, "decontaminate")


@pytest.mark.fault("a stage fails", "twice, as a failure of the machinery", "retried with back-off, bounded")
def test_only_failures_of_the_machinery_are_retried(toys) -> None:
    toys.fail("corpus", "InfrastructureError")
    result = toys.run()
    assert toys.calls() == {"corpus 1": 1, "corpus 2": 1, "corpus 3": 2}, "the retry goes on from step 2"
    assert states(result)["corpus"] == "failed"
    toys.fail("corpus", "BadInput")
    toys.run()
    assert toys.calls() == {"corpus 3": 1}


@pytest.mark.fault("two runs race for one stage", "from the start", "one computes, both use it")
def test_two_runs_at_once_commit_one_result(toys) -> None:
    gate = toys.block("corpus")
    results: list = []
    process = toys.command("run", "smoke", "--only", "corpus", *toys.set_options())
    try:
        wait_for(lambda: toys.blocked("corpus"), 120, "the first run's corpus stage")
        here = contextvars.copy_context()  # with it, Prefect's settings: the servers of this test
        thread = threading.Thread(target=lambda: results.append(here.run(toys.run, only=["corpus"])))
        thread.start()
        time.sleep(2)
        gate.unlink()
        thread.join(120)
        process.wait(120)
    finally:
        gate.unlink(missing_ok=True)
        process.kill()
        process.communicate()
    assert states(results[0])["corpus"] == "reused"
    assert toys.calls() == {f"corpus {step}": 1 for step in range(1, 6)}


@pytest.mark.fault("kill -9 of the flow process", "in the middle of a step", "next run takes the lease at once")
def test_killed_process_resumes_without_waiting_for_its_lease(toys) -> None:
    gate = toys.block("sft")
    process = toys.command("run", "smoke", *toys.set_options())
    try:
        wait_for(lambda: toys.blocked("sft"), 200, "the sft stage")
    finally:
        process.kill()
        process.communicate()
    gate.unlink()
    toys.calls()
    began = time.monotonic()
    result = toys.run()
    assert result.succeeded
    assert states(result)["base"] == "reused"
    calls = toys.calls()
    assert "sft 2" not in calls
    assert calls["sft 3"] == 1
    assert result.stages[4].node == "sft"
    assert result.stages[4].started_s < time.monotonic() - began


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "prefect"])
def test_stopping_takes_seconds_and_can_be_resumed(toys, how) -> None:
    toys.block("base")
    process = toys.command("run", "smoke", *toys.set_options())
    try:
        wait_for(lambda: toys.blocked("base"), 200, "the base stage")
        began = time.monotonic()
        if how == "prefect":
            asked = toys.command("cancel")
            printed, _ = asked.communicate(timeout=100)
            assert asked.returncode == 0
            assert "cancelled after" in printed
        else:
            process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < 45
    assert process.returncode != 0
    assert "base: stopped" in errors
    assert toys.plan()["base"] == ("RESUME", "goes on from step 2")
    assert toys.plan()["decontaminate"][0] == "HIT"


def test_a_run_that_waits_in_line_is_taken_out_of_it(toys) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    from flows import prefect_api
    from flows.recipe_flow import ring

    with get_client(sync_client=True) as client:
        waiting = client.create_flow_run(ring, parameters={"request": {"recipe": "smoke"}}, state=Scheduled())
    asked = toys.command("cancel", waiting.name)
    printed, errors = asked.communicate(timeout=100)
    assert asked.returncode == 0, errors
    assert f"{waiting.name} cancelled after" in printed
    assert prefect_api.get_run(str(waiting.id))["state_type"] == "CANCELLED"
    again = toys.command("cancel", waiting.name)
    _, errors = again.communicate(timeout=100)
    assert again.returncode == 2
    assert "is not running: Cancelled" in errors


def test_only_from_and_force_choose_what_runs(toys) -> None:
    with pytest.raises(BadInput, match="Did you mean 'rlvr-1'"):
        toys.run(only=["rlvr-11"])
    early = toys.run(start_at="sft")
    assert states(early)["corpus"] == "failed"
    assert "may not start it" in early.message()
    part = toys.run(only=["corpus", "decontaminate"])
    assert part.succeeded
    assert states(part) == {"corpus": "done", "decontaminate": "done"}, "what nobody asked for is not there"
    toys.calls()
    forced = toys.run(only=["decontaminate"], force=["decontaminate"])
    assert toys.calls().keys() == {f"decontaminate {step}" for step in range(1, 6)}
    again = toys.run(only=["decontaminate"], force=["decontaminate"], repeat_of=forced.run_id)
    assert not toys.calls(), "a rerun of the forced run reuses its result"
    assert states(again)["decontaminate"] == "reused"


def test_lineage_in_mlflow_is_complete_and_doubles_nothing(toys) -> None:
    from components.lineage.tracker import Tracker

    failure = toys.fail("decontaminate")
    toys.run(only=["corpus", "decontaminate"])
    failure.unlink()
    result = toys.run(only=["corpus", "decontaminate"])
    tracker = Tracker.open(experiment=toys.project)
    runs = tracker.client.search_runs([tracker.experiment_id])
    stages = [run for run in runs if run.data.tags["ringflow.kind"] == "stage"]
    assert sorted(run.data.tags["ringflow.stage"] for run in stages) == ["corpus", "decontaminate"]
    assert {run.info.status for run in stages} == {"FINISHED"}
    cleaned = next(run for run in stages if run.data.tags["ringflow.stage"] == "decontaminate")
    history = tracker.client.get_metric_history(cleaned.info.run_id, "loss")
    assert sorted(point.step for point in history) == [1, 2, 3, 4, 5]
    parent = next(run for run in runs if run.data.tags.get("prefect.flow_run_id") == result.run_id)
    refs = {stage.node: stage.ref for stage in result.stages}
    assert parent.data.tags["ringflow.artifact.corpus"] == refs["corpus"].uri
    assert parent.data.tags["ringflow.artifact.decontaminate"] == refs["decontaminate"].uri
    assert cleaned.data.tags["ringflow.artifact"] == refs["decontaminate"].uri
    assert cleaned.data.tags["ringflow.recipe"] == "smoke"
    assert cleaned.data.tags["git.commit"] == parent.data.tags["git.commit"]
    files = {file.path for file in tracker.client.list_artifacts(cleaned.info.run_id, "recorded")}
    assert files >= {"recorded/config.json", "recorded/recipe.yaml"}
    edges = tracker.client.get_run(parent.info.run_id).inputs.dataset_inputs
    assert {edge.dataset.digest for edge in edges} == {ref.manifest_sha256[:36] for ref in refs.values() if ref}


@pytest.mark.fault("S3 out of reach", "when the run starts", "named within seconds")
def test_unreachable_or_refusing_store_ends_the_run_with_the_reason(toys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:9"):
        toys.run()
    assert time.monotonic() - began < 30
    monkeypatch.undo()
    monkeypatch.setenv("TOY_DIR", str(toys.directory))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BadInput, match=r"credentials|key"):
        toys.run()
    assert not toys.calls()


def test_wrong_recipe_key_exits_2_with_file_and_key(toys) -> None:
    process = toys.command("run", "smoke", "--set", "sft.stepz=3")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "sft.stepz: unknown key 'stepz'. Did you mean 'steps'?" in errors
    assert "Traceback" not in errors


def test_help_is_quick(stack) -> None:
    """Processor time, not wall time: the machine may be busy."""
    before = os.times()
    subprocess.run([Path(sys.executable).parent / "ringflow", "--help"], check=True, capture_output=True, timeout=60)
    after = os.times()
    assert after.children_user - before.children_user < 2.0
