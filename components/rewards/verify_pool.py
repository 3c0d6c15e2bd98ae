"""Symbolic equality and logic verifiers in killable processes: every answer has a deadline, a bomb costs its time only.

A pair that uses up its processor time is unequal, with the reason: that depends on the answer alone. A pair that passes
its deadline without having used it was not given the processor: that is an infrastructure error.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from components.sandbox.isolation import find_bubblewrap
from components.sandbox.types import Tier
from components.sandbox.worker import STARTER

Mode = Literal["math", "logic"]

_WORKER = Path(__file__).with_name("verify_worker.py")
_START_S = 120.0
_PROCESSOR_S = 2
_MEMORY_BYTES = 3 << 30


@dataclass(frozen=True)
class Equality:
    """`problem`: why the answer could not be judged, when `equal` is False for that reason. `score`: marks of a
    verifier that gives them."""

    equal: bool
    problem: str = ""
    score: float | None = None


class _Process:
    """One started checker. Not thread-safe."""

    def __init__(self, tier: Tier, mode: Mode) -> None:
        paths = json.dumps([path for path in sys.path if path])
        command = [sys.executable, "-P", "-B", str(_WORKER), str(_PROCESSOR_S), str(_MEMORY_BYTES), paths, mode]
        if tier != "rlimits":
            wall = [find_bubblewrap(), "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/"]
            command = [*wall, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--", *command]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = STARTER.submit(self._start, command).result(timeout=_START_S)
        self._buffer = b""
        self._poll = select.poll()  # select() refuses descriptors above 1023
        assert self._process.stdout is not None
        self._poll.register(self._process.stdout, select.POLLIN)
        try:
            self._line(time.monotonic() + _START_S)
        except BaseException:
            self.close()
            raise

    def _start(self, command: list[str]) -> subprocess.Popen:
        environment = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        # reasoning-gym brings matplotlib, which wants to write somewhere; /dev/shm is the sandbox's own.
        environment |= {"MPLCONFIGDIR": "/dev/shm", "TMPDIR": "/dev/shm", "MPLBACKEND": "agg"}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment, cwd="/"
        )

    def ask(self, line: str, deadline_s: float) -> Equality:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise InfrastructureError(f"the checker ended: {self._tail()}") from None
        reply = self._line(time.monotonic() + deadline_s)
        if "bad_input" in reply:
            raise BadInput(reply["bad_input"], where="verifier.reference")
        return Equality(reply["equal"], reply.get("problem", ""), reply.get("score"))

    def _line(self, ends: float) -> dict:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            left = ends - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                raise DeadlineExceeded("the checker was not given enough processor time before its deadline")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                status = self._process.wait(timeout=5.0)
                raise InfrastructureError(f"the checker ended with status {status}: {self._tail()}")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _tail(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        return self._log.read().decode("utf-8", "replace").strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=5.0)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._log.close()


class VerifyPool:
    """`workers` checkers, started at the first use.

    Args:
        tier: `rlimits` runs them without bubblewrap; they read model-written text, but run no code of it.
    """

    def __init__(self, workers: int = 1, tier: Tier = "strict", mode: Mode = "math") -> None:
        self._workers, self._tier, self._mode = workers, tier, mode
        self._slots: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="verify")
        self._lock = threading.Lock()
        self._known: dict[str, Equality] = {}

    def submit(self, request: Mapping[str, Any], deadline_s: float) -> Future[Equality]:
        """The judgement as a future; it raises InfrastructureError when it failed twice."""
        return self._threads.submit(self.judge, request, deadline_s)

    def judge(self, request: Mapping[str, Any], deadline_s: float) -> Equality:
        """Judges one answer; remembers the outcome.

        Args:
            request: {reference, answer} for math, {entry, answer} for logic; JSON-able.
        Raises:
            InfrastructureError: the checker ended or was starved twice.
            BadInput: the request names a generator that does not exist.
        """
        key = json.dumps(request, sort_keys=True)
        if key in self._known:
            return self._known[key]
        for last in (False, True):
            process = self._slots.get(timeout=_START_S + deadline_s)
            try:
                if process is None or not process.alive:
                    if process is not None:
                        process.close()
                    process = None
                    process = _Process(self._tier, self._mode)
                outcome = process.ask(key, deadline_s)
            except InfrastructureError:
                if process is not None:
                    process.close()
                process = None
                if last:
                    raise
                continue
            finally:
                self._slots.put(process)
            with self._lock:
                if len(self._known) > 50_000:
                    self._known.clear()
                self._known[key] = outcome
            return outcome
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends the checkers. Safe to call twice."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for _ in range(self._workers):
            try:
                process = self._slots.get_nowait()
            except queue.Empty:
                return
            if process is not None:
                process.close()
