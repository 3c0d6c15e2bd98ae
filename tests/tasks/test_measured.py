"""What a run, its sandbox and its store say to Prometheus; the dashboard asks for nothing else."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import vllm.v1.metrics.loggers as vllm_metrics

from components.artifacts.context import StageResult
from components.artifacts.s3 import _again
from components.artifacts.store import Store
from components.failures import InfrastructureError
from components.recipe.base import StrictModel
from components.recipe.execution import ExecutionConfig
from components.sandbox import Program, Sandbox, Test
from components.telemetry import metrics
from components.telemetry.endpoint import Endpoint
from components.telemetry.logs import VARIABLE, json_log
from flows.board import LogBoard
from tasks.measured import SHOWN, measured
from tasks.node import Node
from tasks.runner import Job, run_stage
from tasks.session import Session
from tasks.stage import Stage, StageConfig
from tests.components.telemetry.test_metrics import scraped

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "infra" / "grafana" / "ringflow.json"


class Value(StrictModel):
    value: int = 0


@dataclass(frozen=True)
class SmallStage(Stage):
    def function(self):
        return small


def small(context, inputs: Mapping, config: StageConfig) -> StageResult:
    if context.node == "broken":
        raise InfrastructureError("made to fail")
    (context.output / "out").write_bytes(b"x" * 1000)
    context.metrics({"reward/mean": 0.5, "reward/error_fraction": 0.25, "mismatch/infer_train_kl": 1e-3}, 2)
    context.metrics({"time/step_s": 3.5, "time/update_s": 1.5, "rollout/tokens_per_s": 900.0, "unknown": 1.0}, 2)
    logging.getLogger("components.small").warning("after the step")
    return StageResult({})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint(0)
    yield served
    served.close()


def session(tmp_path: Path) -> Session:
    store = Store.open((tmp_path / "store").as_uri(), tmp_path / "cache")
    store.check(5, create=True)
    return Session(
        store=store,
        tracker=None,
        board=LogBoard(),
        execution=ExecutionConfig(project="p"),
        work=tmp_path / "work",
        run_id="run-1",
        repeat="",
        allowed=frozenset({"rlvr-1", "broken"}),
    )


def job(name: str, given: Session) -> Job:
    return Job(Node(name, SmallStage(name, 1, {}, "corpus", False), {}, StageConfig(Value(), None), seed=0), given)


def test_stages_and_store_are_counted(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "log"))
    given = session(tmp_path)
    before = scraped(endpoint.url)
    with json_log():
        run_stage.fn(job("rlvr-1", given), {})
        run_stage.fn(job("rlvr-1", session(tmp_path)), {})
        with pytest.raises(InfrastructureError):
            run_stage.fn(job("broken", given), {})
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (line,) = [line for line in logged if line["message"] == "after the step"]
    assert (line["run"], line["stage"], line["step"]) == ("run-1", "rlvr-1", 2)
    assert {line["stage"] for line in logged} == {"rlvr-1", "broken"}
    found = scraped(endpoint.url)
    stage = (("stage", "rlvr-1"),)
    assert found["ringflow_step", stage] == 2
    assert found["ringflow_step_seconds", stage] == 3.5
    assert found["ringflow_step_part_seconds", (("part", "update"), *stage)] == 1.5
    assert found["ringflow_tokens_per_second", stage] == 900
    assert found["ringflow_reward_mean", stage] == 0.5
    assert found["ringflow_reward_error_ratio", stage] == 0.25
    assert found["ringflow_mismatch_kl", stage] == 1e-3
    ended = {state: found.get(("ringflow_stages_total", (("state", state),))) for state in ("done", "reused", "failed")}
    assert ended == {"done": 1, "reused": 1, "failed": 1}
    written = ("ringflow_store_bytes_total", (("direction", "write"),))
    assert found[written] - before[written] > 1000, "the file, its manifest, the marker and the lease"


def test_programs_verdicts_and_workers_of_a_sandbox_are_counted(endpoint: Endpoint) -> None:
    source = "print(int(input()) * 2)"
    with Sandbox(2) as sandbox:
        assert sandbox.run(Program("python", source), [Test(stdin="2", expected="4")]).verdict == "accepted"
        assert sandbox.run(Program("python", source), [Test(stdin="2", expected="5")]).verdict == "wrong-answer"
        found = scraped(endpoint.url)
        assert found["ringflow_sandbox_workers", ()] == 2
        assert found["ringflow_sandbox_waiting", ()] == 0
    for verdict in ("accepted", "wrong-answer"):
        assert found["ringflow_sandbox_programs_total", (("language", "python"), ("verdict", verdict))] == 1
    assert found["ringflow_sandbox_program_seconds_count", ()] == 2
    assert scraped(endpoint.url)["ringflow_sandbox_workers", ()] == 0


def test_a_request_that_s3fs_tries_again_is_counted(endpoint: Endpoint) -> None:
    def answer(status: int, code: str) -> Exception:
        error = OSError(code)
        error.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return error

    assert _again(answer(503, "SlowDown"))
    assert not _again(answer(404, "NoSuchKey"))
    assert scraped(endpoint.url)["ringflow_store_retries_total", ()] == 1


def test_what_is_shown_is_logged_somewhere() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "components").rglob("*.py"))
    for name, metric in SHOWN.items():
        assert f'"{name}"' in sources, f"no component logs {name}"
        assert metrics.METRICS[metric].labels == ("stage",)


def test_without_a_listener_a_stage_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.measured.measured", lambda *_: pytest.fail("nobody listens"))
    run_stage.fn(job("rlvr-1", session(tmp_path)), {})
    measured("sft", {"loss": 1.0}, 1)


QUERY_WORDS = {"sum", "by", "rate", "increase", "histogram_quantile", "le", "label_values", "stage", "state"}


def queried(text: str) -> set[str]:
    """Metric names of a PromQL expression: what stands before its braces, brackets and labels."""
    return set(re.findall(r"\b(?:ringflow_\w+|vllm:\w+)", text))


def series(name: str) -> set[str]:
    ends = ("_bucket", "_sum", "_count") if metrics.METRICS[name].kind == "histogram" else ("",)
    return {name + end for end in ends}


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    asked = set().union(*map(queried, expressions))
    ours = set().union(*map(series, metrics.METRICS))
    assert {name for name in asked if name.startswith("ringflow_")} <= ours
    assert not [name for name in metrics.METRICS if not series(name) & asked], "a metric that nobody looks at"
    engine = Path(vllm_metrics.__file__).read_text()
    for name in asked - ours:
        plain = re.sub(r"_(total|bucket)$", "", name)
        assert f'name="{plain}"' in engine, f"vLLM has no {name}"
    for expression in expressions:
        left = set(re.findall(r"[a-zA-Z_:][\w:]*", re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)))
        words = left - queried(expression) - QUERY_WORDS
        assert words <= {"language", "verdict", "direction"}, f"{expression}: {words}"


def test_labels_and_legends_of_the_dashboard_exist() -> None:
    board = json.loads(DASHBOARD.read_text())
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            (name, *_) = sorted(queried(target["expr"]))
            plain = re.sub(r"_bucket$", "", name)
            labels = {*metrics.METRICS[plain].labels} if plain in metrics.METRICS else {"instance"}
            grouped = re.findall(r"by \((\w+)\)", target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels | {"instance"}
            assert set(grouped) <= labels | {"le"}
            assert set(re.findall(r"(\w+)=~", target["expr"])) <= labels
