"""The tracker against a real MLflow server: nothing is doubled by retries, nothing falls back when it is away."""

from __future__ import annotations

import socket
import time

import pytest

from components.failures import BadInput, DeadlineExceeded, InfrastructureError, LeaseLost
from components.lineage.tracker import Tracker, flatten

FINGERPRINT = "ab" * 32


def run_of(tracker, **changes):
    parent = tracker.pipeline_run("smoke", {"prefect.flow_run_id": "flow-1"})
    return tracker.stage_run(
        parent,
        changes.get("node", "sft"),
        changes.get("fingerprint", FINGERPRINT),
        {"git.commit": "c0ffee", "ringflow.recipe": "smoke"},
        {"section": {"steps": 3, "phases": [{"lr": 0.1}]}},
    )


def points(tracker, run_id, name):
    return sorted((point.step, point.value) for point in tracker.client.get_metric_history(run_id, name))


def test_a_retried_stage_goes_on_in_its_run_and_repeats_no_point(tracker):
    first = run_of(tracker)
    for step in range(1, 1300):
        first.metrics({"loss": float(step), "entropy": 0.5}, step)
    first.finish("FAILED")
    second = run_of(tracker)
    assert (second.run_id, second.resumed) == (first.run_id, True)
    for step in range(1200, 1311):
        second.metrics({"loss": -1.0}, step)
    second.finish("FINISHED")
    stored = points(tracker, first.run_id, "loss")
    assert stored == [(step, float(step)) for step in range(1, 1300)] + [(step, -1.0) for step in range(1300, 1311)]
    run = tracker.client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"section.steps": "3", "section.phases.0.lr": "0.1"}
    assert run.data.tags["mlflow.parentRunId"] == tracker.pipeline_run("again", {"prefect.flow_run_id": "flow-1"})
    third = run_of(tracker)
    assert third.run_id != first.run_id, "a finished run is never reopened"
    third.finish("FINISHED")
    assert run_of(tracker, fingerprint="cd" * 32).run_id not in (first.run_id, third.run_id)


def test_who_lost_the_lease_adds_no_point_to_the_run_of_its_successor(tracker):
    stale = run_of(tracker)
    stale.metrics({"loss": 1.0}, 1)
    stale.flush()
    lost = []

    def check() -> None:
        if lost:
            raise LeaseLost("taken by another run")

    stale.guarded_by(check)
    stale.metrics({"loss": 2.0}, 2)
    lost.append(True)
    with pytest.raises(LeaseLost):
        stale.flush()
    stale.abandon()
    successor = run_of(tracker)
    successor.metrics({"loss": 2.0}, 2)
    successor.finish("FINISHED")
    assert successor.run_id == stale.run_id
    assert points(tracker, stale.run_id, "loss") == [(1, 1.0), (2, 2.0)]


def test_artifacts_in_and_out_are_logged_once(tracker, publish):
    corpus = publish("corpus", "corpus")
    base = publish("base", "checkpoint", inputs={"data": corpus}, summary={"loss": 1.5})
    sft = publish("sft", "checkpoint", inputs={"data": corpus, "model": base})
    maker = run_of(tracker, node="base")
    base_model = maker.output("checkpoint", base)
    maker.finish("FINISHED")
    run = run_of(tracker)
    for _ in range(2):
        run.input("data", corpus)
        run.input("model", base)
        model = run.output("checkpoint", sft, step=3)
    run.metrics({"math/avg@8": 0.5}, 3, model=sft)
    run.finish("FINISHED")
    stored = tracker.client.get_run(run.run_id)
    datasets = stored.inputs.dataset_inputs
    contexts = sorted(next(t.value for t in d.tags if t.key == "mlflow.data.context") for d in datasets)
    assert contexts == ["input:data", "input:model", "output:checkpoint"]
    data = next(d for d in datasets if d.dataset.name == "corpus")
    assert data.dataset.digest == corpus.manifest_sha256[:36]
    assert {t.key: t.value for t in data.tags}["manifest.sha256"] == corpus.manifest_sha256
    assert corpus.uri in data.dataset.source
    assert [m.model_id for m in stored.inputs.model_inputs] == [base_model]
    assert [(m.model_id, m.step) for m in stored.outputs.model_outputs] == [(model, 3)]
    logged = tracker.client.get_logged_model(model)
    assert (logged.tags["artifact.uri"], logged.status) == (sft.uri, "READY")
    assert [(m.key, m.value) for m in logged.metrics] == [("math/avg_at_8", 0.5)]
    assert tracker.artifact_uri(run.run_id) == sft.uri


def test_register_moves_the_alias_and_makes_no_second_version(tracker, publish):
    first, second = publish("release", "release", {"n": 1}), publish("release", "release", {"n": 2})
    name = f"nano-{tracker.experiment_id}"
    with pytest.raises(BadInput, match="no logged model"):
        tracker.register(first, name)
    with run_of(tracker, node="release") as run:
        run.output("release", first)
        run.output("release", second)
    assert tracker.register(first, name, "released", "the first", {"scores": "0.5"}) == "1"
    assert tracker.register(first, name, "released") == "1"
    assert tracker.artifact_uri(f"models:/{name}@released") == first.uri
    assert tracker.register(second, name, "released") == "2"
    assert tracker.artifact_uri(f"models:/{name}@released") == second.uri
    assert tracker.artifact_uri(f"models:/{name}/1") == first.uri
    for wrong in (f"models:/{name}@nobody", "models:/nothing@released", "0" * 32):
        with pytest.raises(BadInput):
            tracker.artifact_uri(wrong)


def test_files_are_attached_under_their_name(tracker, tmp_path):
    (tmp_path / "plot.png").write_bytes(b"png")
    with run_of(tracker) as run:
        run.attach(tmp_path / "plot.png", "plots/reward.png")
        run.attach(tmp_path / "plot.png", "plot.png")
    assert [file.path for file in tracker.client.list_artifacts(run.run_id, "plots")] == ["plots/reward.png"]
    assert "plot.png" in [file.path for file in tracker.client.list_artifacts(run.run_id)]


def test_an_unreachable_tracker_is_told_within_seconds(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match="ringflow up"):
        Tracker.open()
    with pytest.raises(BadInput, match="MLflow server"):
        Tracker.open("file:///tmp/mlruns")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(InfrastructureError, match="cannot be reached"):
            Tracker.open(f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert time.monotonic() - began < 8


@pytest.mark.fault("MLflow out of reach", "short and long", "buffered; then a named failure")
def test_metrics_survive_an_outage_and_a_long_one_fails_the_stage(tracker, monkeypatch):
    run = run_of(tracker)
    real = tracker.client.log_batch

    def unplugged(*_, **__):
        raise ConnectionError("unplugged")

    monkeypatch.setattr(tracker.client, "log_batch", unplugged)
    run.metrics({"loss": 1.0}, 1)
    with pytest.raises(DeadlineExceeded, match="unplugged"):
        run.flush(deadline_s=1)
    monkeypatch.setattr("components.lineage.stage_run.OUTAGE_LIMIT_S", 0.0)
    with pytest.raises(InfrastructureError, match="unplugged"):
        run.metrics({"loss": 2.0}, 2)
    monkeypatch.setattr(tracker.client, "log_batch", real)
    run.finish("FINISHED")
    assert points(tracker, run.run_id, "loss") == [(1, 1.0)]


def test_flatten():
    assert flatten({"a": {"b": 1, "c": (1, 2)}, "d": [{"e": None}], "f": "x"}) == {
        "a.b": "1",
        "a.c": "[1, 2]",
        "d.0.e": "null",
        "f": "x",
    }
