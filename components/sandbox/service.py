"""The sandbox over HTTP, as existing clients know it: SandboxFusion's `POST /run_code` (bytedance/SandboxFusion).

Request and answer have that service's fields, so that the clients of verl, slime and others work when pointed here.
Beside them every answer has `ringflow`: the verdict and the tier in force. Failures of the machine are `SandboxError`,
never a failed program; a queue that is full or too slow answers 504, which those clients retry. GET /healthz and GET
/languages are ours.

Plain http.server: a request costs far less here than the program it carries, and the sandbox needs nothing installed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from components.failures import BadInput, InfrastructureError
from components.sandbox.languages import LANGUAGES, available_languages, language_version
from components.sandbox.pool import Sandbox
from components.sandbox.types import COMPILE_LIMITS, Limits, Program, RunResult, Test, TestResult, Verdict

_LARGEST_BODY = 64 << 20
# What a shell would show of a program that the sandbox ended.
_SIGNALS: dict[Verdict, int] = {
    "output-limit": signal.SIGXFSZ,
    "memory-limit": signal.SIGKILL,
    "security-violation": signal.SIGSYS,
}


class RunCodeRequest(BaseModel):
    """Fields and defaults of SandboxFusion. files: path -> base64. memory_limit_MB: -1 for the default."""

    code: str
    language: str
    compile_timeout: float = Field(10, gt=0, le=600)
    run_timeout: float = Field(10, gt=0, le=600)
    memory_limit_MB: float = -1
    stdin: str | None = None
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []


def run_code(sandbox: Sandbox, request: RunCodeRequest, wait_s: float) -> dict[str, Any]:
    """Runs one request and returns the answer's JSON.

    Raises:
        BadInput: a file is not base64, or leaves the directory.
        DeadlineExceeded, Saturated: no worker became free within `wait_s`.
    """
    files: dict[str, str | bytes] = {}
    for name, content in request.files.items():
        if content is not None:
            try:
                files[name] = base64.b64decode(content, validate=True)
            except binascii.Error as error:
                raise BadInput(f"not base64: {error}", where=f"files[{name!r}]") from None
    memory = int(request.memory_limit_MB * (1 << 20)) if request.memory_limit_MB > 0 else 2 << 30
    limits = Limits(cpu_s=request.run_timeout, wall_s=request.run_timeout, memory_bytes=memory)
    compile_limits = replace(COMPILE_LIMITS, cpu_s=request.compile_timeout, wall_s=request.compile_timeout)
    result = sandbox.run(
        Program(request.language, request.code, files),
        [Test(stdin=request.stdin or "")],
        limits,
        fetch=request.fetch_files,
        compile_limits=compile_limits,
        deadline_s=wait_s,
    )
    return answer(result)


def answer(result: RunResult) -> dict[str, Any]:
    """A result in SandboxFusion's words."""
    body: dict[str, Any] = {
        "status": "Success" if result.accepted else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": None,
        "executor_pod_name": None,
        "files": {},
        "ringflow": {"verdict": result.verdict, "tier": result.tier, "language": result.language},
    }
    if result.verdict in ("infrastructure-error", "unavailable"):
        return body | {"status": "SandboxError", "message": result.detail}
    if result.compile_seconds is not None:
        failed = result.verdict == "compile-error"
        timed_out = failed and result.detail.startswith("compilation took longer")
        body["compile_result"] = {
            "status": "TimeLimitExceeded" if timed_out else "Finished",
            "execution_time": result.compile_seconds,
            "return_code": None if timed_out else int(failed),
            "stdout": "",
            "stderr": result.detail if failed else "",
        }
    if result.tests:
        (test,) = result.tests
        body["run_result"] = _command(test)
        body["files"] = {name: base64.b64encode(data).decode() for name, data in test.files.items()}
    return body


def _command(test: TestResult) -> dict[str, Any]:
    code = test.exit_code if test.signal is None else -test.signal
    if test.verdict in _SIGNALS and (test.signal is not None or not code):
        code = -_SIGNALS[test.verdict]
    if code is None:
        code = int(test.verdict != "accepted")
    timed_out = test.verdict == "time-limit"
    return {
        "status": "TimeLimitExceeded" if timed_out else "Finished",
        "execution_time": test.seconds,
        "return_code": None if timed_out else code,
        "stdout": test.stdout,
        "stderr": test.stderr or test.detail,
    }


def languages() -> list[dict[str, Any]]:
    """The table as people ask for it: name, aliases, available, version."""
    here = set(available_languages())
    return [
        {
            "language": row.name,
            "aliases": list(row.aliases),
            "available": row.name in here,
            "version": language_version(row),
            "packages": list(row.packages),
        }
        for row in LANGUAGES
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def do_GET(self) -> None:
        if self.path == "/healthz":
            waiting = self.server.sandbox.waiting
            self._say(200, {"status": "ok", "workers": self.server.sandbox.workers, "waiting": waiting})
        elif self.path == "/languages":
            self._say(200, languages())
        else:
            self._say(404, {"detail": f"nothing is at {self.path}; POST /run_code, GET /languages, GET /healthz"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST_BODY:
            self.close_connection = True
            self._say(413, {"detail": f"a body of 0 to {_LARGEST_BODY} bytes with Content-Length is wanted"})
            return
        body = self.rfile.read(int(length))
        if self.path != "/run_code":
            self._say(404, {"detail": "POST /run_code"})
            return
        try:
            request = RunCodeRequest.model_validate_json(body)
            self._say(200, run_code(self.server.sandbox, request, self.server.wait_s))
        except ValidationError as error:
            self._say(422, {"detail": json.loads(error.json(include_url=False, include_context=False))})
        except BadInput as error:
            self._say(422, {"detail": [{"loc": [error.where], "msg": str(error), "type": "bad_input"}]})
        except InfrastructureError as error:
            self._say(504, {"status": "SandboxError", "message": str(error)})

    def _say(self, status: int, body: Mapping[str, Any] | list[dict[str, Any]]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a line for every program is of no use to anybody."""


class Service(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers.

    Args:
        sandbox: stays the caller's, to close after the service.
        port: 0 for any free one; `server_port` tells it.
        wait_s: how long a request waits for a worker before it is answered with 504.
    Raises:
        BadInput: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, sandbox: Sandbox, port: int, *, host: str = "127.0.0.1", wait_s: float = 60.0) -> None:
        self.sandbox, self.wait_s = sandbox, wait_s
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise BadInput(f"cannot listen on {host}:{port}: {error}", where="--port", remedy="Name another") from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def serve(sandbox: Sandbox, port: int, *, host: str = "127.0.0.1", wait_s: float = 60.0, announce: Any = print) -> None:
    """Answers until SIGINT or SIGTERM. Starts all workers first.

    Raises:
        InfrastructureError: this machine cannot isolate programs.
        BadInput: the port is taken.
    """
    tier = sandbox.warm()
    with Service(sandbox, port, host=host, wait_s=wait_s) as service:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=service.shutdown).start())
        announce(
            f"http://{host}:{service.server_port}/run_code  tier {tier}, {sandbox.workers} workers, pid {os.getpid()}"
        )
        service.serve_forever(poll_interval=0.2)
