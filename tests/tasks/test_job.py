"""A stage's job without Ray: its order, what it says, and its process on a store of files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import failures
from components.artifacts.code import sources_sha256
from components.artifacts.lease import lease_holder
from components.artifacts.store import Store
from components.artifacts.tidy import survey
from components.failures import BadInput, IntegrityError, RingflowError
from components.recipe.load import recipe_names
from flows.graph import Graph
from flows.request import RECIPES, load_graph
from tasks.board import Lines
from tasks.job_events import MARK, end_of, failure_of, heard, last_end
from tasks.job_order import StageOrder
from tasks.session import Session

ROOT = Path(__file__).parents[2]
GRAPH, LOADED = load_graph("smoke", ["execution.project=jobs"], read_base=False, servers=False)


def session(graph: Graph = GRAPH, loaded=LOADED, store: Store | None = None, work: Path = Path(), **more) -> Session:
    execution = graph.recipe.execution
    return Session(store, None, Lines(), execution, work, "run-1", "", frozenset(graph.nodes), loaded=loaded, **more)


def ordered(**change: object) -> StageOrder:
    return StageOrder.of(GRAPH.nodes["corpus"], session(), {}, None).model_copy(update=change)


@pytest.mark.parametrize("recipe", recipe_names(RECIPES))
def test_an_order_holds_the_node_and_the_recipe_as_they_are(recipe: str) -> None:
    graph, loaded = load_graph(recipe, read_base=False, servers=False)
    for node in graph.nodes.values():
        order = StageOrder.of(node, session(graph, loaded), {}, "again" if node.name == "sft" else None)
        read = StageOrder.model_validate_json(order.model_dump_json())
        assert read.node() == node
        assert read.recipe.loaded() == loaded
        assert read.execution == graph.recipe.execution


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"version": 99}, BadInput, "version 99 of stage corpus"),
        ({"seed": 1}, IntegrityError, "has fingerprint"),
        ({"section": ("subprocess:Popen", {})}, IntegrityError, "no section"),
        ({"section": ("components.recipe.load:Recipe.model_validate", {})}, IntegrityError, "no section"),
    ],
)
def test_an_order_for_other_code_or_other_work_is_refused(change, error, says) -> None:
    with pytest.raises(error, match=says):
        ordered(**change).node()


def test_a_job_runs_the_code_of_its_flow(tmp_path: Path) -> None:
    for folder in ("components", "tasks", "docs", "components/__pycache__"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("a")
    order = ordered(sources=sources_sha256(tmp_path), commit="a" * 40)
    for other in ("docs", "components/__pycache__"):
        (tmp_path / other / "a.py").write_text("b")
    order.check_code(sources_sha256(tmp_path), "b" * 40)
    (tmp_path / "tasks" / "a.py").rename(tmp_path / "tasks" / "b.py")
    with pytest.raises(BadInput, match=r"this node \(commit bbbbbbbbbbbb\) is not that of the flow .* \(commit aaa"):
        order.check_code(sources_sha256(tmp_path), "b" * 40)


def test_an_order_in_the_store_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store.open(tmp_path.as_uri(), tmp_path / "cache")
    store.check(5, create=True)
    order = ordered()
    key = order.put(store, "job-1")
    assert order.put(store, "job-1") == key
    assert StageOrder.get(store, key) == order
    path = tmp_path / key
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    with pytest.raises(IntegrityError):
        StageOrder.get(store, key)
    path.unlink()
    assert StageOrder.get(store, key) is None


KINDS = [kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, RingflowError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_failure_crosses_with_its_kind_and_words(kind: type[RingflowError]) -> None:
    error = kind("wrong", where="here", remedy="do that") if kind is BadInput else kind("wrong")
    line = MARK + json.dumps({"event": "end", **end_of(error, work_seconds=1.0)})
    found = last_end(f"some\nlast lines\n{line}\nand a farewell")
    rebuilt = failure_of(found)
    assert (type(rebuilt), str(rebuilt)) == (kind, str(error))
    assert found["work_seconds"] == 1.0


def test_what_is_no_event_is_none_and_a_defect_keeps_its_name() -> None:
    assert heard("INFO something") is None
    assert heard(f"{MARK}{{not json") is None
    assert failure_of(end_of(None)) is None
    defect = failure_of(end_of(KeyError("x")))
    assert (type(defect), str(defect)) == (RingflowError, "KeyError: 'x'")
    assert len(json.dumps(end_of(RuntimeError("long" * 10_000)))) < 20_000  # what Ray keeps of a log


class Started:
    """The process of a job with a toy stage, as Ray would start it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store.open((directory / "store").as_uri(), directory / "cache")
        self.store.check(5, create=True)
        self.order = ordered(sources=sources_sha256(ROOT))
        self.key = self.order.put(self.store, "job-1")
        command = [sys.executable, "-m", "tests.faults.jobs", "-m", "tasks.job_main", self.key]
        environment = {"RINGFLOW_STORE": self.store.url, "RINGFLOW_HOME": str(directory), "TOY_DIR": str(directory)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def events(self) -> list[dict]:
        output, _ = self.process.communicate(timeout=120)
        assert output.rstrip().splitlines()[-1].startswith(MARK), output
        return [event for line in output.splitlines() if (event := heard(line))]

    def holder(self) -> str:
        return lease_holder(self.store, "jobs", "corpus", self.order.fingerprint)


def test_the_process_of_a_job_commits_and_says_how_it_goes(tmp_path: Path) -> None:
    started = Started(tmp_path)
    events = started.events()
    assert started.process.returncode == 0, events
    assert events[0] == {"event": "state", "state": "running", "text": ""}
    assert (events[-1]["event"], events[-1]["kind"]) == ("end", "")
    last = [event for event in events if event["event"] == "now"][-1]
    assert (last["done"], last["total"], last["step"], last["metrics"]) == (5, 5, 5, {"loss": 0.2})
    ref = started.store.committed("jobs", "corpus", started.order.fingerprint)
    made = started.store.read_manifest(ref).provenance
    assert (made.recipe, made.prefect_run_id) == ("smoke", "run-1")
    assert started.store.record(ref, "recipe.yaml").decode() == LOADED.text
    assert not started.store.objects.files(f"{started.order.root}/jobs")
    assert not list((tmp_path / "work").iterdir())


def test_a_job_that_is_told_to_stop_leaves_the_lease_and_its_resume_point(tmp_path: Path) -> None:
    (tmp_path / "block-corpus").touch()
    started = Started(tmp_path)
    give_up = time.monotonic() + 60
    while not (tmp_path / "blocked-corpus").exists():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert str(started.process.pid) in started.holder()
    started.process.send_signal(signal.SIGTERM)
    end = started.events()[-1]
    assert (started.process.returncode, end["kind"]) == (1, "Cancelled")
    assert started.holder() == ""
    assert started.store.objects.files(f"{started.order.root}/resume")
    assert survey(started.store) == []  # the order stays with the resume point


def test_orders_of_a_finished_stage_are_left_over(tmp_path: Path) -> None:
    started = Started(tmp_path)
    started.events()
    assert survey(started.store) == []
    started.order.put(started.store, "job-2")
    (found,) = survey(started.store)
    assert (found.kind, found.why) == ("order", "its stage is finished")
