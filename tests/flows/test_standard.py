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
from flows.standard_request import StandardRequest

ROOT = Path(__file__).parents[2]
RINGFLOW = Path(sys.executable).parent / "ringflow"


class Adds(BaseHTTPRequestHandler):
    """A model that can add: it answers `n+1=?` rightly, after some thought."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._send({"data": [{"id": "adder"}]})

    def do_POST(self) -> None:
        type(self).asked += 1
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = int(body["messages"][-1]["content"].split("+")[0])
        message = {"content": f"\\boxed{{{number + 1}}}", "reasoning_content": "one more"}
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
    path = tmp_path / "aime.jsonl"
    path.write_text(
        "".join(json.dumps({"id": n, "problem": f"{n}+1=?", "answer": str(n + 1)}) + "\n" for n in range(3))
    )
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
