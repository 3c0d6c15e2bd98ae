"""A team's servers without Docker, and a Ray node that dies with the stage it carries (docs/cluster.md)."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from mlflow.entities import Run

from components.artifacts.resume import COMPLETE, read_point
from components.artifacts.store import Store
from components.lineage.graph import lineage
from components.lineage.tracker import Tracker
from flows import prefect_api
from flows.references import find_artifact
from flows.tidy import tidy
from infra import stack as embedded
from infra.stack.home import credentials
from infra.stack.ports import choose
from infra.stack.profile import MLFLOW_BUCKET, QUIET, STORE_BUCKET
from tests.conftest import WATCHDOG, leftovers
from tests.faults import mini, team
from tests.faults.team import EVERY, STEPS, TURN

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(580),
    pytest.mark.skipif(not team.has_postgres(), reason="Debian's PostgreSQL is not here: apt-get install postgresql"),
]

ENTRYPOINT = "tests/faults/team_stages.py:mini"
NODES = ("corpus", "decontaminate", "base")


def weights(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.safetensors")}


class Team:
    def __init__(self, directory: Path, open_: ExitStack) -> None:
        self.directory = directory
        self.postgres = team.Postgres(directory)
        open_.callback(self.postgres.close)
        address = f"{team.HEAD}:{choose((self.postgres.port,))}"
        ray = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        ray |= {"RAY_worker_niceness": "0", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1", "PYTHONPATH": _path()}
        home = directory / "home"
        home.mkdir(0o700)  # the watchdog ends when it is gone
        watchdog = [sys.executable, "-c", WATCHDOG, str(os.getpid()), str(home)]
        open_.enter_context(_ended(subprocess.Popen(watchdog, start_new_session=True)))
        open_.callback(_down, home)
        os.environ.update(RINGFLOW_PROFILE="local", RINGFLOW_POSTGRES=self.postgres.url)
        # A node's learners send and read resume points themselves, with the keys in its environment.
        keys = {k: v for k, v in embedded.up(home, only=("s3",)).environment.items() if k.startswith("AWS_")}
        own = {name: value for name, value in ray.items() if name != "RAY_ADDRESS"} | keys
        start_head = partial(team.ray_head, directory, int(address.rpartition(":")[2]), own)
        head = self._open(open_, start_head())
        servers = embedded.up(home, only=("s3", "prefect", "mlflow"), deadline_s=150).environment
        del os.environ["RINGFLOW_POSTGRES"]
        self._registered(open_, head, start_head)
        start_second = partial(team.ray_second, directory, address, own)
        self.second = self._registered(open_, self._open(open_, start_second()), start_second)
        servers = {k: v for k, v in servers.items() if not k.startswith("RAY_")}
        self.environment = {**servers, **QUIET, **ray, "RINGFLOW_PROFILE": "cluster"}
        self.environment |= {"TOY_DIR": str(directory), "TOY_NODES": " ".join(NODES)}
        self.occupant = self._open(open_, team.occupant(directory, self.environment))
        self.worker = self._open(open_, team.worker(directory, self.environment))
        self.occupant.wait("holds the head", 60)
        self.home = home

    def _open(self, open_: ExitStack, started: team.Program) -> team.Program:
        open_.callback(started.close)
        return started

    def _registered(self, open_: ExitStack, node: team.Program, start: Callable[[], team.Program]) -> team.Program:
        """The Ray node once it has registered, for which Ray gives it 30 s; a second one if it took longer."""
        try:
            node.wait("Ray runtime started", 60)
        except AssertionError:
            node.close()
            node = self._open(open_, start())
            node.wait("Ray runtime started", 60)
        return node

    def actors(self) -> list[tuple[str, int, str]]:
        """(stage, step, address of the node) in the order the actors began them."""
        path = self.directory / "actors"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(node, int(step), host) for node, step, host in map(str.split, lines)]


def _down(home: Path) -> None:
    os.environ["RINGFLOW_PROFILE"] = "local"  # in the cluster profile nothing here is ours to end
    embedded.down(home)


@contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _path() -> str:
    return os.pathsep.join(filter(None, [str(team.ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def servers() -> Iterator[Team]:
    directory = Path(tempfile.mkdtemp(prefix="rf-team-", dir="/tmp"))
    before = dict(os.environ)
    try:
        with ExitStack() as open_:
            yield Team(directory, open_)
        assert not leftovers(directory / "home")
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(directory, ignore_errors=True)


class Deployment:
    """The stages as a deployment, whose runs the worker takes."""

    def __init__(self, project: str) -> None:
        overrides = [f"base.steps={STEPS}", f"base.checkpoint_every={EVERY}", "base.tokens_per_step=4096"]
        overrides += [
            f"execution.project={project}",
            "execution.learners=1",
            "execution.retries=2",
            "execution.retry_delay_s=0.5",
        ]
        sizes = {"pretrain": 120, "sft": 1, "rl": 8, "preference": 8, "benchmark": 8}
        overrides += [f"corpus.sources.0.{split}={size}" for split, size in sizes.items()]
        self.request = {"recipe": "smoke", "overrides": overrides}
        body = {
            "name": "team",
            "flow_id": prefect_api.ask("POST", "/flows/", {"name": "ring"})["id"],
            "entrypoint": ENTRYPOINT,
            "work_pool_name": "ringflow",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(team.ROOT)}}],
            "enforce_parameter_schema": False,
        }
        self.id = prefect_api.ask("POST", "/deployments/", body)["id"]

    def start(self, **request: list[str]) -> str:
        """The id of a new run."""
        parameters = {"request": {**self.request, **request}}
        return prefect_api.ask("POST", f"/deployments/{self.id}/create_flow_run", {"parameters": parameters})["id"]

    def completes(self, run: str, seconds: float) -> None:
        ended = ("COMPLETED", "FAILED", "CRASHED")
        mini.wait_for(lambda: prefect_api.get_run(run)["state_type"] in ended, seconds, "the end")
        found = prefect_api.get_run(run)
        assert found["state_type"] == "COMPLETED", found["state"]["message"]


def each_key_has_its_bucket(home: Path, endpoint: str) -> None:
    import botocore.session
    from botocore.exceptions import ClientError

    keys = credentials(home)
    for prefix, own, other in (("", STORE_BUCKET, MLFLOW_BUCKET), ("mlflow_", MLFLOW_BUCKET, STORE_BUCKET)):
        client = botocore.session.Session().create_client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys[f"{prefix}aws_access_key_id"],
            aws_secret_access_key=keys[f"{prefix}aws_secret_access_key"],
        )
        client.put_object(Bucket=own, Key="rights", Body=b"")
        client.delete_object(Bucket=own, Key="rights")
        for denied in (
            lambda client=client, other=other: client.put_object(Bucket=other, Key="rights", Body=b""),
            lambda client=client, other=other: client.list_objects_v2(Bucket=other),
            lambda client=client, own=own: client.delete_bucket(Bucket=own),
            lambda client=client: client.create_bucket(Bucket="another"),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                denied()


@pytest.mark.fault(
    "kill -9 of a Ray node",
    "with the stage's learner on it, in mid-step",
    "retried on the node left, from its resume point; bit for bit the same weights",
)
def test_a_node_that_dies_in_mid_stage_costs_the_steps_since_the_resume_point(servers: Team) -> None:
    os.environ.update({k: v for k, v in servers.environment.items() if not k.startswith("RAY_")})
    gate = servers.directory / "gate-base"
    gate.touch()
    began = time.monotonic()
    deployment = Deployment("team")
    run = deployment.start()
    reached = servers.directory / "reached-base"

    def there() -> bool:
        state = prefect_api.get_run(run)
        assert state["state_type"] not in ("FAILED", "CRASHED", "COMPLETED"), state["state"]["message"]
        return reached.exists()

    mini.wait_for(there, 240, f"step {TURN} of the learner")
    each_key_has_its_bucket(servers.home, os.environ["AWS_ENDPOINT_URL"])
    assert servers.actors() == [("base", step, team.SECOND) for step in range(1, TURN + 1)]
    the_learner_sent_its_part_itself()
    killed_at, before = time.monotonic(), team.since(began)
    assert servers.second.kill() >= 3  # ray start, its raylet, the learner
    gate.unlink()
    servers.occupant.close()
    mini.wait_for(lambda: servers.actors()[-1][2] == team.HEAD, 150, "the stage on the node left")
    resumed = team.since(killed_at)
    deployment.completes(run, 150)
    ended = team.since(killed_at)

    again = [("base", step, team.HEAD) for step in range(TURN - EVERY + 1, STEPS + 1)]
    assert servers.actors()[TURN:] == again
    said = servers.worker.log.read_text(errors="replace")
    assert "learner[0] died during train_tokens" in said
    assert [task["run_count"] for task in prefect_api.task_runs(run) if "base" in task["name"]] == [2]
    found = lineage_is_right(servers)
    nothing_is_half_written(servers)
    began = time.monotonic()
    deployment.completes(deployment.start(force=["base"]), 200)
    print(f"step {TURN} after {before} s; from the kill: on the other node {resumed} s, ended {ended} s; "
          f"undisturbed {team.since(began)} s")  # fmt: skip
    assert servers.actors()[TURN + len(again) :] == [("base", step, team.HEAD) for step in range(1, STEPS + 1)]
    the_weights_are_those_of_an_undisturbed_run(found)


def the_learner_sent_its_part_itself() -> None:
    store = Store.open()
    [key] = [key for key in store.objects.files("team/base") if key.endswith(f"-{EVERY:08d}/{COMPLETE}")]
    record = read_point(store, f"team/base/{key.removesuffix(f'/{COMPLETE}')}")
    assert [part.path for part in record.parts] == ["learner/rank-00000.safetensors"]
    assert "learner/index.json" in [entry.path for entry in record.files]


def stage_runs() -> dict[str, list[Run]]:
    """MLflow's runs of each stage, the latest first."""
    tracker, found = Tracker.open(experiment="team"), {}
    for run in tracker.client.search_runs([tracker.experiment_id], order_by=["attributes.start_time DESC"]):
        if run.data.tags["ringflow.kind"] == "stage":
            found.setdefault(run.data.tags["ringflow.stage"], []).append(run)
    return found


def lineage_is_right(servers: Team) -> Run:
    """The run of the stage that died."""
    runs, client = stage_runs(), Tracker.open(experiment="team").client
    assert set(runs) == set(NODES)
    for (run,) in runs.values():
        assert run.info.status == "FINISHED"
    (base,) = runs["base"]
    history = client.get_metric_history(base.info.run_id, "loss")
    assert sorted(point.step for point in history) == [1, STEPS]  # the steps that the loop logs, each once
    # From MLflow's record of the last stage back to the first one's, by the manifests in the store.
    store, uris = Store.open(), {name: run.data.tags["ringflow.artifact"] for name, (run,) in runs.items()}
    graph = lineage(store, find_artifact(uris["base"], store))
    assert set(graph.nodes) == set(uris.values())
    in_postgres = "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
    assert servers.postgres.ask("mlflow", in_postgres) == str(len(NODES) + 1)  # the stages and the pipeline's
    assert servers.postgres.ask("prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'") == "1"
    return base


def nothing_is_half_written(servers: Team) -> None:
    store = Store.open()
    names = list(store.objects.files("team"))
    assert sum(name.endswith("/_COMMITTED") for name in names) == len(NODES), names
    assert not [name for name in names if "/resume/" in name]
    assert tidy(servers.home, dry_run=True).found == ()
    commits = [name.removesuffix("/_COMMITTED") for name in names if name.endswith("/_COMMITTED")]
    for commit in commits:
        attempts = {
            name.split("/attempts/")[1].split("/")[0] for name in names if name.startswith(f"{commit}/attempts/")
        }
        assert len(attempts) == 1, attempts
        (attempt,) = attempts
        assert store.verify(f"{store.url}/team/{commit}/attempts/{attempt}").ok


def the_weights_are_those_of_an_undisturbed_run(disturbed: Run) -> None:
    runs, store = stage_runs(), Store.open()
    assert {name: len(found) for name, found in runs.items()} == dict.fromkeys(NODES, 1) | {"base": 2}
    undisturbed = runs["base"][0]
    assert undisturbed.info.run_id != disturbed.info.run_id
    uris = [run.data.tags["ringflow.artifact"] for run in (disturbed, undisturbed)]
    assert uris[0] != uris[1]
    one, other = (weights(store.fetch(find_artifact(uri, store), "model")) for uri in uris)
    assert one == other
    assert one
    losses = [run.data.metrics["loss"] for run in (disturbed, undisturbed)]
    assert losses[0] == losses[1]
