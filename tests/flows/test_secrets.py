"""Planted secrets are in nothing that a run writes: store, MLflow's database and files, Prefect, report, logs.

The runner, the store (a directory), the leases, the tracker and MLflow's server are real; Prefect's API is a recorder
on loopback, which keeps every byte it is sent. The stages are small and do what leaks: they fail with addresses and
keys in their errors, log them, and run from a work tree with a key in it.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from components.artifacts.code import CodeState
from components.artifacts.context import StageResult
from components.artifacts.store import Store
from components.failures import InfrastructureError
from components.recipe.execution import ExecutionConfig
from components.recipe.load import read_recipe
from components.redact import MARK, redact_logs
from components.rewards.endpoint import answered, authorization
from flows.cli import app as command
from flows.forms import RECIPES
from flows.report import attach_documents, write_run_report
from flows.result import RunResult, StageOutcome
from flows.shown import RunPage, tags_of
from tasks.board import Lines
from tasks.lineage import RunTracker
from tasks.node import Node
from tasks.runner import Job, run_stage
from tasks.session import Session
from tasks.stage import Stage, StageConfig
from tests.components.lineage.conftest import mlflow_uri  # noqa: F401

pytestmark = pytest.mark.server

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI7K7MDENG",
    "PREFECT_API_AUTH_STRING": "team:correct-horse-battery",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-staple-password",
    "RAY_AUTH_TOKEN": "0f1e2d3c4b5a69788796",
    "OPENAI_API_KEY": "sk-proj-Ab12Cd34Ef56Gh78Ij90",
    "JUDGE": "judge-key-of-any-shape",  # the name says nothing: known once it was read
}
IN_ADDRESS = "pa55word-in-address"
SECRETS = (*PLANTED.values(), "correct-horse-battery", IN_ADDRESS)


@dataclass(frozen=True)
class LeakyStage(Stage):
    def function(self):
        return leaky


def leaky(context, inputs: Mapping, config: StageConfig) -> StageResult:
    log = logging.getLogger("components.leaky")
    log.warning("asking %s", f"http://ann:{IN_ADDRESS}@judge/v1")
    if context.node == "refused":
        refused = httpx.Response(401, text=f"Incorrect API key: {PLANTED['JUDGE']}")
        authorization("JUDGE", "judge's key")
        answered(
            lambda left: refused,
            str,
            who="the judge",
            where=f"http://ann:{IN_ADDRESS}@judge/v1",
            retries=0,
            deadline_s=5,
            ended=threading.Event(),
        )
    if context.node == "machinery":
        raise InfrastructureError(f"S3: SignatureDoesNotMatch for {PLANTED['AWS_SECRET_ACCESS_KEY']}")
    if context.node == "defect":
        request = httpx.Request("GET", f"http://ann:{IN_ADDRESS}@judge/v1")
        httpx.Response(500, request=request).raise_for_status()
    (context.output / "out").write_text("result")
    (context.output / "sources.json").write_text("[]")
    context.metrics({"loss": 1.0}, 1)
    return StageResult({"count": 1})


@pytest.fixture
def prefect_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Everything that was sent to Prefect's API."""
    received: list[bytes] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.path.encode() + self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"id": str(uuid.uuid4())}).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PATCH = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield received
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    before = logging.getLogRecordFactory()
    handler = logging.FileHandler(tmp_path / "log.txt")
    logging.getLogger().addHandler(handler)
    redact_logs()
    yield tmp_path / "log.txt"
    logging.getLogger().removeHandler(handler)
    handler.close()
    logging.setLogRecordFactory(before)


def work_tree(path: Path) -> Path:
    """A repository whose uncommitted change is a key."""
    path.mkdir()
    (path / "code.py").write_text("KEY = ''\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "1"]):
        subprocess.run(["git", "-C", str(path), *words], check=True, capture_output=True)
    (path / "code.py").write_text(f"KEY = '{PLANTED['OPENAI_API_KEY']}'  # {PLANTED['AWS_SECRET_ACCESS_KEY']}\n")
    return path


def found_in(data: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in data]


def test_a_run_writes_no_secret(mlflow_uri, prefect_api, log_file, tmp_path, tmp_path_factory, monkeypatch) -> None:  # noqa: F811
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    text = (RECIPES / "smoke.yaml").read_text()
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"# the judge's key is {PLANTED['OPENAI_API_KEY']}\n{text}")
    judge = "execution.judges=[{model: m, base_url: http://127.0.0.1:1/v1, api_key_env: JUDGE}]"
    loaded = read_recipe(recipe, [judge], RECIPES)
    code = CodeState.read(work_tree(tmp_path / "tree"))
    assert code.dirty
    store = Store.open((tmp_path / "store").as_uri(), tmp_path / "cache")
    store.check(5, create=True)
    tracker = RunTracker(mlflow_uri, f"secrets-{uuid.uuid4().hex[:8]}")

    class FlowRun:
        id, name = uuid.uuid4(), "own-1"

    tracker.start("own-1", {**tags_of(loaded, FlowRun, "", code.tags()), "note": f"http://ann:{IN_ADDRESS}@h"})
    nodes = ("corpus", "refused", "machinery", "defect")
    session = Session(
        store=store,
        tracker=tracker,
        board=Lines(nodes),
        execution=ExecutionConfig(project="secrets"),
        work=tmp_path / "work",
        run_id=str(FlowRun.id),
        repeat="",
        allowed=frozenset(nodes),
        loaded=loaded,
        code=code,
    )
    for name in nodes:
        stage = LeakyStage(name, 1, {}, "corpus", uses_model=False)
        job = Job(Node(name, stage, {}, StageConfig(loaded.recipe.corpus, None), seed=0, key="corpus"), session)
        if name == "corpus":
            run_stage.fn(job, {})
            continue
        with pytest.raises(Exception) as failed:  # noqa: PT011
            run_stage.fn(job, {})
        assert not found_in(str(failed.value).encode()), name
        assert MARK in str(failed.value), "what stands there is said to be taken out"
        logging.getLogger("prefect.flow").error("a task failed", exc_info=failed.value)

    stages = tuple(
        StageOutcome(node=node, state=o["state"], ref=o.get("ref"), error=o.get("error", ""))
        for node, o in session.outcomes.items()
    )
    result = RunResult("own", str(FlowRun.id), "own-1", 1.0, stages, {"MLflow": tracker.url})
    report = write_run_report(tmp_path, session, loaded, result, {"note": "x"})
    attach_documents(session, loaded, report)
    links = {"MLflow": f"http://ann:{IN_ADDRESS}@h"}
    with RunPage(str(FlowRun.id), "own-1", nodes, session.outcomes, lambda: links) as page:
        page.finish(result.message())
    tracker.finish("FAILED", {"mlflow.note.content": result.message()})

    monkeypatch.setenv("RINGFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["ringflow", "run", "--set", f"a=http://ann:{IN_ADDRESS}@h"])
    try:
        raise ValueError(PLANTED["RAY_AUTH_TOKEN"])
    except ValueError:
        command._keep_traceback()

    server = [path for path in tmp_path_factory.getbasetemp().glob("mlflow*") if (path / "mlflow.db").exists()]
    written = {path: path.read_bytes() for root in (*server, tmp_path) for path in root.rglob("*") if path.is_file()}
    written = {path: data for path, data in written.items() if path != recipe and tmp_path / "tree" not in path.parents}
    leaks = [f"{path}: {secret}" for path, data in written.items() for secret in found_in(data)]
    leaks += [f"Prefect: {body[:200]!r}" for body in prefect_api if found_in(body)]
    assert not leaks, "\n".join(leaks)

    # what was scanned is what a run writes
    names = {path.name for path in written}
    assert {"manifest.json", "config.json", "recipe.yaml", "git.diff", "report.html", "mlflow.db", "log.txt"} <= names
    assert any(path.parent.name == "logs" and path.name.startswith("error-") for path in written)
    assert any(b"/artifacts/" in body and b"refused failed" in body for body in prefect_api)
    diffs = [data for path, data in written.items() if path.name == "git.diff"]
    assert all(b"KEY = '***'  # ***" in data for data in diffs)
    database = b"".join(data for path, data in written.items() if path.name.startswith("mlflow.db"))
    assert b"SignatureDoesNotMatch for ***" in database
    assert b"HTTPStatusError: " in database
    assert b"http://***@h" in database
    assert b"asking http://***@judge/v1" in written[log_file]
