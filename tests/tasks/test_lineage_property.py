"""Random DAGs, run again and again with faults, retries and reuse: for every artifact the graph equals the truth.

The runner, the store (a directory), the leases and MLflow (a server on SQLite) are real; only the stages are small.
The truth is kept by the test itself: what each result was made from, and by which run first.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from components.artifacts.committed import MARKER
from components.artifacts.context import StageResult
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import InfrastructureError
from components.lineage.graph import lineage
from components.lineage.impact import impact
from components.lineage.references import Catalog
from components.lineage.stage_run import StageRun
from components.lineage.tracker import MODEL_KINDS
from components.recipe.base import StrictModel
from components.recipe.execution import ExecutionConfig
from tasks.board import Lines
from tasks.lineage import RunTracker, TrackedStage
from tasks.node import Node
from tasks.runner import Job, run_stage
from tasks.session import Session
from tasks.stage import Stage, StageConfig
from tests.components.lineage.conftest import mlflow_uri  # noqa: F401

pytestmark = [pytest.mark.server, pytest.mark.slow]

KINDS = ("clean-corpus", "checkpoint", "reward-model", "evaluation")
# Where a stage breaks: before its work, after a resume point, at the commit, and after it (told, or killed).
FAULTS = ("work", "point", "commit", "after", "killed")


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


class Value(StrictModel):
    value: int


@dataclass(frozen=True)
class SmallStage(Stage):
    """Writes what it was made from; a stage without inputs is a corpus of one shard of its own."""

    def function(self):
        return small


FAULT: dict[str, str] = {}


def small(context, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    fault = FAULT.get(context.node, "")
    if fault == "work":
        raise InfrastructureError("made to fail before its work")
    point = context.resume.latest()
    if point is None:
        (context.scratch / "point").mkdir()
        (context.scratch / "point" / "state").write_text("1")
        context.resume.save(1, context.scratch / "point", {"n": 1})
    if fault == "point":
        raise InfrastructureError("made to fail after a resume point")
    for ref in inputs.values():
        context.fetch(ref)
    (context.output / "out").write_text(f"{context.node} {config.section.value}")
    if not inputs:
        (context.output / "sources.json").write_text(json.dumps([shard(context.node, config.section.value)]))
    context.metrics({"loss": 1.0}, 1)
    return StageResult({"value": config.section.value})


def shard(node: str, value: int) -> dict:
    digest = f"{node}-{value}".encode().hex().ljust(64, "0")
    return {"uri": f"file:///{node}-{value}", "sha256": digest, "licence": "mit", "records": 1, "split": ""}


@contextmanager
def broken(node: str, fault: str, store: Store):
    """Breaks one stage run at one place."""
    FAULT[node] = fault
    create, output = store.objects.create, StageRun.output

    def refuse(key: str, data: bytes) -> bool:
        if key.endswith(MARKER):
            raise InfrastructureError("made to fail at the commit")
        return create(key, data)

    def stop(self, name: str, ref: ArtifactRef, step: int = 0):
        if fault == "killed":
            raise Killed
        output(self, name, ref, step)
        raise InfrastructureError("made to fail after the commit")

    patches = []
    if fault == "commit":
        patches = [mock.patch.object(store.objects, "create", refuse)]
    elif fault in ("after", "killed"):
        patches = [mock.patch.object(StageRun, "output", stop)]
        if fault == "killed":
            patches.append(mock.patch.object(TrackedStage, "fail"))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        FAULT.pop(node)
        for patch in patches:
            patch.stop()


@dataclass
class Truth:
    """By logical result (node, value, its inputs' results): artifact, first producer, inputs, shards behind it."""

    refs: dict[tuple, ArtifactRef] = field(default_factory=dict)
    makers: dict[tuple, str] = field(default_factory=dict)
    inputs: dict[tuple, dict[str, tuple]] = field(default_factory=dict)
    # Committed by a run that was cut off then, and not asked for since: in the store, not finished in MLflow.
    cut: set[tuple] = field(default_factory=set)

    def ancestors(self, key: tuple) -> set[tuple]:
        return {key}.union(*(self.ancestors(parent) for parent in self.inputs[key].values()))

    def shards(self, key: tuple) -> set[str]:
        return {shard(k[0], k[1])["sha256"] for k in self.ancestors(key) if not self.inputs[k]}


@st.composite
def plans(draw):
    """(nodes: [(kind, indexes of inputs)], runs: [{node index: value}, {node index: (fault, retried)}])."""
    nodes = [("corpus", ())]
    for index in range(1, draw(st.integers(2, 4))):
        parents = draw(st.lists(st.integers(0, index - 1), min_size=0, max_size=2, unique=True))
        nodes.append((draw(st.sampled_from(KINDS)) if parents else "corpus", tuple(parents)))
    indexes = st.integers(0, len(nodes) - 1)
    faults = st.dictionaries(indexes, st.tuples(st.sampled_from(FAULTS), st.booleans()), max_size=2)
    runs = draw(st.lists(st.tuples(st.dictionaries(indexes, st.just(1), max_size=1), faults), min_size=2, max_size=3))
    return nodes, runs


@given(plan=plans())
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
def test_the_graph_equals_the_truth(mlflow_uri, plan) -> None:  # noqa: F811
    nodes, runs = plan
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        store = Store.open((root / "store").as_uri(), root / "cache")
        store.check(5, create=True)
        truth, experiment = Truth(), f"property-{uuid.uuid4().hex[:8]}"
        for number, (values, faults) in enumerate([*runs, ({}, {})]):
            tracker = RunTracker(mlflow_uri, experiment)
            tracker.start(f"run-{number}", {"prefect.flow_run_id": f"flow-{number}"})
            session = Session(
                store=store,
                tracker=tracker,
                board=Lines(),
                execution=ExecutionConfig(project=experiment, lease_ttl_s=30),
                work=root / f"work-{number}",
                run_id=f"flow-{number}",
                repeat="",
                allowed=frozenset(f"node-{index}" for index in range(len(nodes))),
            )
            done = run_all(nodes, values, faults, session, truth)
            tracker.finish("FINISHED", {})
        compare(store, truth, tracker.full())
        compare_parent(tracker, [truth.refs[key] for key in done.values()])


def run_all(nodes, values, faults, session: Session, truth: Truth) -> dict[int, tuple]:
    done: dict[int, tuple] = {}
    for index, (kind, parents) in enumerate(nodes):
        if not all(parent in done for parent in parents):
            continue
        consumed = {f"in-{parent}": done[parent] for parent in parents}
        key = (f"node-{index}", values.get(index, 0), tuple(sorted(consumed.items())))
        node = Node(
            f"node-{index}",
            SmallStage(f"node-{index}", 1, {}, kind, uses_model=False),
            {},
            StageConfig(Value(value=values.get(index, 0)), None),
            seed=0,
        )
        given_inputs = {name: truth.refs[parent].model_dump(mode="json") for name, parent in consumed.items()}
        fault, retried = faults.get(index, ("", False))
        committed = key in truth.makers
        if fault:
            with broken(node.name, fault, session.store), suppress(InfrastructureError, Killed):
                run_stage.fn(Job(node, session), given_inputs)
            if not committed and fault in ("after", "killed"):
                truth.makers[key], truth.inputs[key] = session.run_id, consumed
                fingerprint = fingerprint_of(node.identity({n: truth.refs[parent] for n, parent in consumed.items()}))
                truth.refs[key] = session.store.committed(session.execution.project, node.stage.type, fingerprint)
                truth.cut.add(key)
            if not retried and not committed:
                continue
        ref = ArtifactRef.model_validate(run_stage.fn(Job(node, session), given_inputs))
        truth.makers.setdefault(key, session.run_id)
        truth.inputs.setdefault(key, consumed)
        assert truth.refs.setdefault(key, ref) == ref, "what was committed is reused"
        truth.cut.discard(key)
        done[index] = key
    return done


def compare(store: Store, truth: Truth, tracker) -> None:
    runs = {run.info.run_id: run for run in tracker.client.search_runs([tracker.experiment_id], max_results=1000)}
    stages = [run for run in runs.values() if run.data.tags["ringflow.kind"] == "stage"]
    for key, ref in truth.refs.items():
        graph = lineage(store, ref)
        assert set(graph.nodes) == {truth.refs[k].uri for k in truth.ancestors(key)}
        assert {source.sha256 for source in graph.sources} == truth.shards(key)
        node = graph.nodes[ref.uri]
        assert dict(node.inputs) == {name: truth.refs[k].uri for name, k in truth.inputs[key].items()}
        assert node.made.prefect_run_id == truth.makers[key], "a reused artifact keeps its first producer"
        if key in truth.cut:
            continue
        (run,) = [run for run in stages if run.data.tags["ringflow.fingerprint"] == ref.fingerprint]
        assert (run.info.run_id, run.info.status) == (node.made.mlflow_run_id, "FINISHED")
        assert run.data.tags["prefect.flow_run_id"] == truth.makers[key]
        run = tracker.client.get_run(run.info.run_id)
        edges = [edge(dataset) for dataset in run.inputs.dataset_inputs]
        expected = [(f"input:{name}", truth.refs[k].manifest_sha256) for name, k in truth.inputs[key].items()]
        expected.append((f"output:{key[0]}", ref.manifest_sha256))
        if not truth.inputs[key]:
            expected.append(("source:", shard(key[0], key[1])["sha256"]))
        assert sorted(edges) == sorted((context, digest[:36]) for context, digest in expected)
        models = [model.model_id for model in run.outputs.model_outputs]
        assert models == ([tracker.model_id(ref)] if ref.kind in MODEL_KINDS else [])
        parents = [truth.refs[k] for k in truth.inputs[key].values() if truth.refs[k].kind in MODEL_KINDS]
        assert {model.model_id for model in run.inputs.model_inputs} == {tracker.model_id(parent) for parent in parents}
    catalog = Catalog(store)
    for digest in {digest for key in truth.refs for digest in truth.shards(key)}:
        touched = {item.entry.ref.uri for item in impact(digest, catalog).touched}
        assert touched == {ref.uri for key, ref in truth.refs.items() if digest in truth.shards(key)}


def compare_parent(tracker: RunTracker, refs: list[ArtifactRef]) -> None:
    """The pipeline's run names every artifact it used or made, as dataset, and the models among them."""
    run = tracker.full().client.get_run(tracker.parent.run_id)
    edges = {edge(dataset) for dataset in run.inputs.dataset_inputs}
    assert edges == {(f"artifact:{ref.stage}", ref.manifest_sha256[:36]) for ref in refs}
    models = [model.model_id for model in (run.outputs.model_outputs if run.outputs else [])]
    assert sorted(models) == sorted(tracker.full().model_id(ref) for ref in refs if ref.kind in MODEL_KINDS)


def edge(dataset) -> tuple[str, str]:
    tags = {tag.key: tag.value for tag in dataset.tags}
    return tags["mlflow.data.context"], dataset.dataset.digest
