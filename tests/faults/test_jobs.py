"""Stages as Ray jobs: the flow's process dies and the work goes on, the job dies and the flow goes on."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from components.artifacts.provenance import recipe_version
from components.artifacts.store import Store
from components.cluster.jobs import Jobs
from components.failures import BadInput, InfrastructureError
from components.lineage.tracker import Tracker
from components.recipe.cluster import JobResources
from flows import crashed, prefect_api
from flows.cli.app import app
from flows.request import RunRequest
from infra import stack as embedded
from infra.stack.profile import JOBS_VARIABLE
from tasks.stage_job import RECIPE
from tests.faults.jobs import JobWorld
from tests.faults.mini import NODES, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(500)]

ONCE = Counter({f"{node} {step}": 1 for node in NODES for step in range(1, 6)})
CORPUS = Counter({call: count for call, count in ONCE.items() if call.startswith("corpus")})
PATIENCE_S = 200


@pytest.fixture(scope="module")
def jobs_api(stack) -> Iterator[dict[str, str]]:
    """The session's stack with Ray's Jobs API, for this module; switching it on and off leaves Ray itself alone."""
    state = embedded.up(stack.home, jobs=True, deadline_s=120)
    assert set(state.started) <= {"jobs", "worker"}
    try:
        yield {name: state.environment[name] for name in (JOBS_VARIABLE, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    finally:
        state = embedded.up(stack.home, jobs=False, deadline_s=120)
        assert set(state.started) <= {"worker"}
        assert "jobs" not in {service.name for service in state.services}


@pytest.fixture
def world(toys, jobs_api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobWorld]:
    for name, value in jobs_api.items():
        monkeypatch.setenv(name, value)
    made = JobWorld(tmp_path)
    yield made
    for node in NODES:
        for job in made.of(node):
            if not job.ended:
                made.jobs.stop(job.id)


@pytest.mark.fault(
    "kill -9 of the flow process", "its stage a Ray job, in mid-step", "the job goes on; the next run attends to it"
)
def test_the_next_run_takes_up_the_job_of_a_killed_flow(world: JobWorld, flow) -> None:
    world.touch("block-decontaminate")
    first = flow()
    world.wait_blocked("decontaminate")
    first.kill()
    first.join(10)
    assert first.exitcode == -signal.SIGKILL
    before = world.lease("decontaminate")
    worker = world.process_of("decontaminate")
    wait_for(lambda: world.lease("decontaminate").beat > before.beat, 30, "a beat of the job's lease")

    second = flow()
    world.wait_said("this run attends to it")
    assert world.process_of("decontaminate") == worker
    world.unblock("decontaminate")
    second.join(PATIENCE_S)
    assert second.exitcode == 0, world.log()

    assert world.calls() == ONCE
    assert [job.status for job in world.of("decontaminate")] == ["SUCCEEDED"]
    after = world.lease("decontaminate")
    assert (after.token, after.nonce, after.holder) == (1, before.nonce, before.holder)
    world.assert_whole(world.run())
    _belongs_to_the_second_run(world)
    assert not [name for name in Store.open().objects.files(world.project) if "/jobs/" in name or "/resume/" in name]


def _belongs_to_the_second_run(world: JobWorld) -> None:
    tracker = Tracker.open(experiment=world.project)
    runs = tracker.client.search_runs([tracker.experiment_id], order_by=["attributes.start_time"])
    pipelines = [run.info.run_id for run in runs if run.data.tags["ringflow.kind"] == "pipeline"]
    (stage,) = [run for run in runs if run.data.tags.get("ringflow.stage") == "decontaminate"]
    assert stage.data.tags["mlflow.parentRunId"] == pipelines[1]


@pytest.mark.fault("kill -9 of the flow process", "its stage a Ray job, which finishes alone", "its result is a HIT")
def test_what_a_job_finished_alone_is_reused(world: JobWorld, flow) -> None:
    world.touch("block-corpus")
    first = flow()
    world.wait_blocked("corpus")
    first.kill()
    (job,) = world.of("corpus")
    world.unblock("corpus")
    assert world.wait_ended(job.id).status == "SUCCEEDED"
    assert world.plan()["corpus"].verdict == "HIT"
    result = world.run()
    world.assert_whole(result)
    assert [stage.state for stage in result.stages] == ["reused", "done"]
    assert world.calls() == ONCE
    assert len(world.of("corpus")) == 1


@pytest.mark.fault("kill -9 of a stage's Ray job", "in mid-step", "a second job goes on from the step before")
def test_a_killed_job_is_followed_by_one_that_resumes(world: JobWorld, flow) -> None:
    world.touch("block-corpus")
    process = flow()
    world.wait_blocked("corpus")
    world.process_of("corpus").kill()
    world.unblock("corpus")
    process.join(PATIENCE_S)
    assert process.exitcode == 0, world.log()
    assert world.calls() == ONCE + Counter({"corpus 3": 1})
    assert [job.status for job in world.of("corpus")] == ["FAILED", "SUCCEEDED"]
    assert world.lease("corpus").token == 2
    world.assert_whole(world.run())


# What follows is about a single stage.


@pytest.fixture
def corpus_alone(world: JobWorld, monkeypatch: pytest.MonkeyPatch) -> JobWorld:
    monkeypatch.setenv("TOY_NODES", "corpus")
    return world


def test_sigterm_ends_the_flow_and_not_the_job(corpus_alone: JobWorld, flow) -> None:
    """A worker that shuts down, a pod that is moved: nobody wants the work to end."""
    world = corpus_alone
    world.touch("block-corpus")
    process = flow()
    world.wait_blocked("corpus")
    process.terminate()
    process.join(PATIENCE_S)
    assert process.exitcode != 0
    assert "goes on; the next run of corpus attends to it" in world.log()
    (job,) = world.of("corpus")
    world.unblock("corpus")
    assert world.wait_ended(job.id).status == "SUCCEEDED"
    assert world.calls() == CORPUS


def test_a_job_that_was_left_is_stopped_by_cancelling_its_run(corpus_alone: JobWorld, flow, monkeypatch) -> None:
    monkeypatch.setattr(crashed, "SETTLED_S", 0.0)
    world = corpus_alone
    world.touch("block-corpus")
    process = flow()
    world.wait_blocked("corpus")
    process.kill()
    process.join(PATIENCE_S)
    (job,) = world.of("corpus")
    (run,) = [run for run in prefect_api.recent_runs(50) if world.project in str(run["parameters"])]
    told = CliRunner().invoke(app, ["cancel", run["name"]])
    assert told.exit_code == 0, told.output
    assert f"{run['name']}: its process is gone: marked as crashed; its job {job.id} was stopped" in told.output
    assert prefect_api.get_run(run["id"])["state_type"] == "CRASHED"
    assert world.jobs.get(job.id).status == "STOPPED"
    assert world.lease("corpus").released
    with pytest.raises(BadInput, match=f"{run['name']} is not running"):
        CliRunner().invoke(app, ["cancel", run["name"]], catch_exceptions=False)


@pytest.mark.fault(
    "two runs race for one stage", "as a Ray job, one is cancelled", "the other goes on with a second job"
)
def test_cancelling_stops_the_job_and_only_the_run_that_was_cancelled(corpus_alone: JobWorld, flow) -> None:
    world = corpus_alone
    world.touch("block-corpus")
    first = flow()
    world.wait_blocked("corpus")
    (run,) = [run for run in prefect_api.recent_runs(50, ("RUNNING",)) if world.project in str(run["parameters"])]
    second = flow()
    world.wait_said("this run attends to it")
    prefect_api.cancel(run["id"])
    first.join(PATIENCE_S)
    assert prefect_api.get_run(run["id"])["state_type"] == "CANCELLED", world.log()
    assert world.of("corpus")[0].status == "STOPPED"
    world.unblock("corpus")
    second.join(PATIENCE_S)
    assert second.exitcode == 0, world.log()
    assert [job.status for job in world.of("corpus")] == ["STOPPED", "SUCCEEDED"]
    assert world.calls() == CORPUS + Counter({"corpus 3": 1})
    assert world.lease("corpus").token == 2  # the first job gave it back; nobody had to wait for it to go stale
    assert "taken over from" not in world.log()


@pytest.mark.fault("kill -9 of Ray's Jobs API", "while a stage's job is at work", "attended again when it is back")
def test_the_jobs_api_may_go_away_and_come_back(corpus_alone: JobWorld, flow, stack) -> None:
    world = corpus_alone
    world.touch("block-corpus")
    process = flow()
    world.wait_blocked("corpus")
    (api,) = [service for service in embedded.status(stack.home) if service.name == "jobs"]
    psutil.Process(api.pid).kill()
    assert "jobs" in embedded.up(stack.home, deadline_s=120).started
    world.unblock("corpus")
    process.join(PATIENCE_S)
    assert process.exitcode == 0, world.log()
    assert world.calls() == CORPUS
    assert [job.status for job in world.of("corpus")] == ["SUCCEEDED"]


@pytest.mark.fault("two runs race for one stage", "as Ray jobs", "one job, both attend to it")
def test_two_runs_attend_to_one_job(corpus_alone: JobWorld, flow) -> None:
    world = corpus_alone
    world.touch("block-corpus")
    both = [flow(), flow()]
    world.wait_blocked("corpus")
    world.wait_said("this run attends to it")
    world.unblock("corpus")
    for process in both:
        process.join(PATIENCE_S)
        assert process.exitcode == 0, world.log()
    assert world.calls() == CORPUS
    assert len(world.of("corpus")) == 1


def test_a_new_job_waits_for_another_of_its_recipe(corpus_alone: JobWorld, flow) -> None:
    """A flow that died has left it: both would use the same cores."""
    world = corpus_alone
    recipe = RunRequest(recipe="smoke", overrides=world.overrides).load()[1].recipe
    left = f"ringflow-{world.project}-other-1"
    about = {RECIPE: f"{world.project}/{recipe_version(recipe)}"}
    assert world.jobs.submit(left, "exec sleep 300", {}, JobResources(), about)
    assert not world.jobs.submit(left, "true", {}, JobResources(), about)  # Ray takes an id once
    process = flow()
    world.wait_said(f"waits for job {left}")
    assert not world.of("corpus")
    world.jobs.stop(left)
    process.join(PATIENCE_S)
    assert process.exitcode == 0, world.log()
    assert world.calls() == CORPUS


def test_a_failure_in_the_job_is_one_of_the_flow(corpus_alone: JobWorld) -> None:
    world = corpus_alone
    world.touch("fail-corpus", "BadInput")
    (failed,) = world.run().stages
    assert (failed.state, failed.kind, failed.error) == ("failed", "BadInput", "made to fail with BadInput")
    assert [job.status for job in world.of("corpus")] == ["FAILED"]
    assert world.calls()["corpus 3"] == 1


def test_the_api_asks_for_the_token(jobs_api: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    address = jobs_api[JOBS_VARIABLE]
    for header in ({}, {"Authorization": "Bearer " + "0" * 64}):
        assert httpx.get(f"{address}/api/jobs/", headers=header).status_code in (401, 403)
        assert httpx.post(f"{address}/api/jobs/", headers=header, json={"entrypoint": "true"}).status_code in (401, 403)
    monkeypatch.setenv(JOBS_VARIABLE, address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(BadInput, match="refused the token"):
        Jobs.connect()


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("", BadInput, "ringflow up --jobs"),
        ("127.0.0.1:8265", BadInput, "http"),
        ("http://ann:pa55word@head:8265", BadInput, "a password or key stands in this address"),
        ("http://127.0.0.1:9", InfrastructureError, "Jobs API at http://127.0.0.1:9"),
    ],
)
def test_an_address_that_is_none_is_named(address, error, says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOBS_VARIABLE, address)
    # Ray remembers that another test's servers ask for a token.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "any")
    with pytest.raises(error, match=says):
        Jobs.connect()
