"""A few toy stages (TOY_NODES; corpus -> decontaminate) as the flow `ring` on the real servers, in a process to kill.

The processes are forked from one that has imported everything, so that a kill costs a second and not an import of
Prefect. What is killed is real: a process with SIGKILL, at an exact place in its work.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.s3 import S3Objects
from components.artifacts.store import Store
from flows.execute import execute, run_here
from flows.graph import Graph
from flows.naming import run_name
from flows.plan import Planned, make_plan
from flows.request import RunRequest
from flows.result import RunResult
from tasks.board import Lines
from tasks.parent_run import ParentRun
from tests.flows import toy

NODES = ("corpus", "decontaminate")
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
NO_MOUNT = 77
FORKED = multiprocessing.get_context("forkserver")


@flow(name="ring", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def mini(request: RunRequest) -> State:
    """The first stages of the recipe, through everything that a whole run goes through."""
    graph, loaded = request.load()
    part = few(graph)
    return execute(
        part,
        loaded,
        allowed=frozenset(part.nodes),
        forced=frozenset(request.force),
        repeat_of=request.repeat_of or None,
    )


def few(graph: Graph) -> Graph:
    names = os.environ.get("TOY_NODES", " ".join(NODES)).split()
    return Graph(graph.recipe, {name: graph.nodes[name] for name in names})


# Where a process ends: (method of S3Objects, part of the key, after the call).
POINTS: dict[str, tuple[str, str, bool]] = {
    "before it has the lease": ("create", "/_LEASE", False),
    "lease taken, no step made": ("create", "/_LEASE", True),
    "a resume point's files uploading": ("put", "-00000003/files", False),
    "a resume point without its marker": ("create", "-00000003/_COMPLETE", False),
    "a file of the result sent, its resume point not": ("write", "/files/sent/3", True),
    "the result's files uploading": ("put", "/attempts/", False),
    "files stored, no manifest": ("create", "/manifest.json", False),
    "manifest stored, no commit": ("create", "/_COMMITTED", False),
    "committed, lineage not recorded": ("create", "/_COMMITTED", True),
    "lineage recorded, resume points still there": ("remove", "/resume", False),
}
AT_THE_END = "all recorded, the run not ended"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(stage: str, point: str) -> None:
    """This process kills itself when it comes to a point of a stage's work."""
    if point == AT_THE_END:
        ParentRun.finish = lambda self, status: die()  # type: ignore[method-assign]
        return
    name, part, after = POINTS[point]
    real = getattr(S3Objects, name)

    def call(self, *arguments):
        key = arguments[1] if name == "put" else arguments[0]
        here = f"/{stage}/" in key and (key.endswith(part) if part in ("/resume", "/_LEASE") else part in key)
        if here and not after:
            die()
        result = real(self, *arguments)
        if here and after:
            die()
        return result

    setattr(S3Objects, name, call)


def tiny_disk(size: str) -> None:
    """From here on this process alone sees a disk of `size` where stages write: a real file system, really full."""
    libc = ctypes.CDLL(None, use_errno=True)
    work = Path(os.environ["RINGFLOW_HOME"]) / "work"
    work.mkdir(exist_ok=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        os._exit(NO_MOUNT)
    if libc.mount(b"tmpfs", bytes(work), b"tmpfs", 0, f"size={size}".encode()):
        os._exit(NO_MOUNT)


def wall_clock_jumps(seconds: float) -> None:
    """From the third step on, time.time() of this process is off by that much."""
    real, directory = time.time, Path(os.environ["TOY_DIR"])

    def jumped() -> float:
        return real() + (seconds if (directory / "blocked-decontaminate").exists() else 0.0)

    time.time = jumped


def _child(environment: Mapping[str, str], overrides: list[str], stage: str, point: str, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    toy.install()
    if stage == "disk":
        tiny_disk(point)
    elif stage == "clock":
        wall_clock_jumps(float(point))
    elif point:
        arm(stage, point)
    result = run(overrides)
    Path(environment["TOY_DIR"], "message").write_text(result.message())
    os._exit(0 if result.succeeded else 1)


def run(overrides: list[str]) -> RunResult:
    settings = {PREFECT_API_URL: os.environ["PREFECT_API_URL"], PREFECT_HOME: os.environ["PREFECT_HOME"]}
    with temporary_settings(settings):
        return run_here(mini, RunRequest(recipe="smoke", overrides=overrides), Lines())


class World:
    """A project of its own in the shared servers, and a directory where its toy stages leave their traces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = f"fault-{uuid.uuid4().hex[:10]}"
        self.overrides = [
            f"execution.project={self.project}",
            "execution.retry_delay_s=0.5",
            "execution.retries=2",
            "execution.lease_ttl_s=30",
        ]

    def start(self, stage: str = "", point: str = "") -> BaseProcess:
        """The flow in a process of its own, which dies at a point if one is given.

        stage `disk`: it has a disk of the size that `point` says. stage `clock`: its clock jumps by so many seconds.
        """
        environment = {**os.environ, "TOY_DIR": str(self.directory)}
        arguments = (environment, self.overrides, stage, point, str(self.directory / "log"))
        process = FORKED.Process(target=_child, args=arguments, daemon=True)
        process.start()
        return process

    def run(self) -> RunResult:
        """The flow in this process."""
        os.environ["TOY_DIR"] = str(self.directory)
        return run(self.overrides)

    def plan(self) -> dict[str, Planned]:
        graph, _ = RunRequest(recipe="smoke", overrides=self.overrides).load()
        return {p.node: p for p in make_plan(few(graph), os.environ["RINGFLOW_STORE"])}

    def forget_cache(self) -> None:
        """Local copies of artifacts are gone, as on another machine."""
        shutil.rmtree(Path(os.environ["RINGFLOW_HOME"]) / "cache", ignore_errors=True)

    def touch(self, name: str, text: str = "") -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def wait_blocked(self, node: str, seconds: float = 120) -> None:
        wait_for(lambda: (self.directory / f"blocked-{node}").exists(), seconds, f"{node} at its third step")

    def calls(self, forget: bool = False) -> Counter[str]:
        """`node step` -> how often that step was begun (since they were forgotten)."""
        path = self.directory / "calls"
        found = Counter(path.read_text().split("\n")[:-1] if path.exists() else [])
        if forget:
            path.unlink(missing_ok=True)
        return found

    def message(self) -> str:
        """The end of the last run of a process of its own."""
        return (self.directory / "message").read_text()

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text()[-4000:] if path.exists() else ""

    def assert_whole(self, result: RunResult) -> None:
        """Nothing lost, nothing doubled, nothing wrong: store, numbers, MLflow."""
        from components.lineage.tracker import Tracker

        assert result.succeeded, result.message()
        store = Store.open()
        tracker = Tracker.open(experiment=self.project)
        found = tracker.client.search_runs([tracker.experiment_id])
        runs = {r.data.tags["ringflow.stage"]: r for r in found if r.data.tags["ringflow.kind"] == "stage"}
        assert len([r for r in found if r.data.tags["ringflow.kind"] == "stage"]) == len(runs) == len(NODES)
        for stage, expected in zip(result.stages, (5, 10), strict=True):
            ref = stage.ref
            assert store.verify(ref.uri).ok
            assert json.loads(store.fetch(ref, "count.json").read_text()) == expected
            sent = store.fetch(ref, "sent")
            assert {path.name: path.read_text() for path in sent.iterdir()} == {f"{n}": f"{n}" for n in range(1, 6)}
            commits = [n for n in store.objects.files(f"{self.project}/{ref.stage}") if n.endswith("/_COMMITTED")]
            assert commits == [f"{ref.fingerprint}/_COMMITTED"]
            run = runs[stage.node]
            assert run.info.status == "FINISHED"
            assert run.data.tags["ringflow.artifact"] == ref.uri
            history = tracker.client.get_metric_history(run.info.run_id, "loss")
            assert sorted((point.step, point.value) for point in history) == [(s, 1 / s) for s in range(1, 6)]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.1)
