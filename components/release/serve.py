"""Serving a release with vLLM's OpenAI-compatible server, on loopback unless told otherwise.

`serve` replaces this process by the server (signals and exit codes are then vLLM's); `start` runs it as a child for as
long as a `with` block lasts, for `ringflow chat` and tests. The command is that of components.release.server_command.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from components.release.server_command import ServeOptions, model_directory, serve_command, served_name

# Read by components.release.vllm_server, which is not imported here: it registers model configurations.
PARENT = "RINGFLOW_SERVER_PARENT"

LAST_WORDS_LINES = 15
FIRST_ERRORS = 3
CAUSE = re.compile(r"\b[A-Z]\w*(Error|Exception): ")


@dataclass(frozen=True)
class Server:
    """A server that answers. base_url ends in /v1."""

    base_url: str
    model: str
    pid: int
    log: Path

    def problem(self) -> str:
        """Why it does not answer: the end of its log when it has ended or died; empty while it runs."""
        import psutil

        running = psutil.pid_exists(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        return "" if running else f"the server is gone; {_last_words(self.log)}"


def check_port(host: str, port: int) -> None:
    """Raises BadInput, naming the process where that can be seen, when `port` is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"cannot listen on {host}:{port}: {error.strerror}{_holder(port)}",
                where="--port",
                remedy="Stop that process or choose another port",
            ) from error


def serve(model: str | Path, options: ServeOptions | None = None) -> NoReturn:
    """Replaces this process by the server.

    Raises:
        BadInput: the model cannot be served, or the port is taken.
    """
    options = options or ServeOptions()
    command, environment = serve_command(model, options)
    check_port(options.host, options.port)
    os.execve(command[0], command, environment)


@contextmanager
def start(
    model: str | Path, options: ServeOptions | None = None, *, log: Path | None = None, deadline_s: float = 300.0
) -> Iterator[Server]:
    """A child server, healthy when the block begins and ended, with its children, when the block ends.

    The block stays in one thread: the server ends with the thread that started it, even if that is killed.

    Raises:
        BadInput: as `serve`.
        InfrastructureError: the server ended before it answered; the message has the end of its log.
        DeadlineExceeded: it did not answer within `deadline_s`.
    """
    options = options or ServeOptions()
    command, environment = serve_command(model, options)
    check_port(options.host, options.port)
    log = log or Path(tempfile.mkstemp(prefix="ringflow-serve-", suffix=".log")[1])
    environment |= {PARENT: str(os.getpid())}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _await_health(process, f"http://{options.host}:{options.port}/health", log, deadline_s)
        name = served_name(model_directory(model), options)
        yield Server(f"http://{options.host}:{options.port}/v1", name, process.pid, log)
    finally:
        _end(process)


def _await_health(process: subprocess.Popen, url: str, log: Path, deadline_s: float) -> None:
    import httpx

    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise InfrastructureError(f"the server ended with status {process.returncode}; {_last_words(log)}")
        try:
            if httpx.get(url, timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise DeadlineExceeded(f"the server did not answer at {url} within {deadline_s:g} s; {_last_words(log)}")


def _end(process: subprocess.Popen) -> None:
    """Ends the server and the engine processes it started: first politely, then not."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        process.wait()
        return
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for member in alive:
        member.kill()
    process.wait(timeout=15)


def _last_words(log: Path) -> str:
    """The end of a log, and the first errors before it: vLLM's own process says last that another one failed."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines[:-LAST_WORDS_LINES] if CAUSE.search(line)][:FIRST_ERRORS]
    causes = "".join(f"\n{line}" for line in errors)
    end = "\n".join(lines[-LAST_WORDS_LINES:])
    return (f"its first errors:{causes}\n" if causes else "") + f"end of {log}:\n{end}"


def _holder(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        return ""
    return ""
