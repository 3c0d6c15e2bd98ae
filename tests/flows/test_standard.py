"""A model behind HTTP on a standard benchmark, through the real command and servers; bad input is told before them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.failures import BadInput
from flows.compare_request import CompareRequest
from flows.standard_request import StandardRequest

ROOT = Path(__file__).parents[2]
RINGFLOW = Path(sys.executable).parent / "ringflow"


class Adds(BaseHTTPRequestHandler):
    """Models that can add: `adder` answers `n+1=?` rightly, after some thought; `forgetful` is one off mostly."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._send({"data": [{"id": "adder"}, {"id": "forgetful"}]})

    def do_POST(self) -> None:
        type(self).asked += 1
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = int(body["messages"][-1]["content"].split("+")[0])
        answer = number + 1 if body["model"] == "adder" or number % 6 == 0 else number
        message = {"content": f"\\boxed{{{answer}}}", "reasoning_content": "one more"}
        self._send({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}})

    def _send(self, data: dict) -> None:
        content = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Adds)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"adder@http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return sums(tmp_path / "aime.jsonl", 3)


def sums(path: Path, items: int) -> Path:
    rows = [{"id": n, "problem": f"{n}+1=?", "answer": str(n + 1)} for n in range(items)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.server
def test_an_endpoint_is_scored_once_per_revision(stack, model: str, records: Path) -> None:
    settings = "evaluate.settings=[{benchmark: aime25, samples: 2}]"
    command = [RINGFLOW, "evaluate", model, "-b", f"aime25={records}", "--recipe", "smoke", "--set", settings, "--json"]
    results = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads(done.stdout))
    evaluation = results[0]["stages"][1]
    assert evaluation["summary"]["aime25"] == 1.0
    assert Adds.asked == 6, "a known result is found, not asked for again"
    assert [stage["state"] for stage in results[1]["stages"]] == ["reused", "reused"]


@pytest.mark.server
def test_a_regression_fails_the_run_with_a_table(stack, model: str, tmp_path: Path) -> None:
    """What the nightly deployment runs, on two models whose scores are known."""
    from flows import prefect_api

    path, worse = sums(tmp_path / "aime.jsonl", 24), model.replace("adder", "forgetful")
    options = ["-b", f"aime25={path}", "--recipe", "smoke", "--samples", "2", "--json"]
    command = [RINGFLOW, "compare", model, worse, *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
    lost = json.loads(done.stdout)
    assert (done.returncode, lost["worse"]) == (1, ["overall", "aime25"])
    row = lost["rows"][1]
    assert (row["points"], row["lost"], row["verdict"]) == ("-83.3", "20", "worse")
    run = prefect_api.get_run(lost["links"]["Prefect"].rsplit("/", 1)[-1])
    assert run["state_type"] == "FAILED"
    assert f"{worse} is worse than {model} on overall, aime25" in run["state"]["message"]
    query = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["comparison"]}}}
    (shown,) = prefect_api.ask("POST", "/artifacts/filter", query)
    assert json.loads(shown["data"])[1]["verdict"] == "worse"


def test_comparisons_that_cannot_be_are_told_without_servers(records: Path) -> None:
    def request(**fields) -> CompareRequest:
        return CompareRequest(**{"before": "a", "after": "b", "recipe": "smoke", **fields})

    request().check()
    for fields, problem in (
        ({"after": "a"}, "compared with itself"),
        ({"after": "b@http://127.0.0.1:1/v1"}, "cannot be asked for a recipe's held-out sets"),
        ({"benchmarks": ["aime2025"]}, "no benchmark is called"),
    ):
        with pytest.raises(BadInput, match=problem):
            request(**fields).check()


def test_one_number_sets_every_benchmark_and_leaves_what_else_is_set(records: Path) -> None:
    own = "evaluate.settings=[{benchmark: aime25, temperature: 0.2}]"
    request = StandardRequest(
        model="x", benchmarks=[f"aime25={records}", "gsm8k"], recipe="smoke", overrides=[own], samples=3, items=2
    )
    settings = request.read(servers=False)[1].recipe.evaluate.settings
    assert [(one.benchmark, one.samples, one.items, one.temperature) for one in settings] == [
        ("aime25", 3, 2, 0.2), ("gsm8k", 3, 2, None),
    ]  # fmt: skip


def test_what_is_wrong_is_told_without_servers(records: Path) -> None:
    def request(**fields) -> StandardRequest:
        return StandardRequest(**{"model": "x", "benchmarks": [f"aime25={records}"], "recipe": "smoke", **fields})

    request().check()
    for fields, problem in (
        ({"benchmarks": ["aime2025"]}, "no benchmark is called"),
        ({"benchmarks": ["aime25=nowhere.jsonl"]}, "no such file"),
        ({"benchmarks": []}, "no benchmark is named"),
        ({"files": ["standings=x"]}, "BENCHMARK.FILE=PATH"),
        ({"judge": "gpt"}, "not MODEL@URL"),
        ({"files": [f"codeforces.standings={records}"]}, "codeforces is not among the benchmarks"),
        ({"overrides": ["evaluate.settings=[{benchmark: aime2}]"]}, "no benchmark 'aime2'"),
    ):
        with pytest.raises(BadInput, match=problem):
            request(**fields).check()
