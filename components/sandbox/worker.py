"""One worker: a sandboxed warm interpreter, its control socket and its end.

Helpers are started by exec from one long-lived thread: a fork of a threaded parent is never made, and the kernel ties
`--die-with-parent` to the thread that started the process, not to the process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.failures import DeadlineExceeded, InfrastructureError
from components.sandbox.isolation import (
    REMEDY,
    ControlGroup,
    bubblewrap_command,
    plain_command,
    require_tier,
    tier_in_force,
)
from components.sandbox.seccomp import filter_bytes
from components.sandbox.types import Tier

# The one thread that starts helpers; it lives as long as this process.
STARTER = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")
_START_S = 30.0
_END_S = 5.0
_LARGEST_FRAME = 1 << 28
_OWN_PROCESSES = 8  # the shell's exec, bwrap's two, the zygote, supervisor and a margin


class Worker:
    """A started worker. Not thread-safe: its owner gives it one request at a time.

    Args:
        weakest: weakest tier allowed.
        processes: bound on the processes of a program.
        memory_bytes: bound on the memory of the whole worker where a memory cgroup is writable.
    Raises:
        InfrastructureError: it did not start, or its tier is weaker than allowed.
    """

    def __init__(self, weakest: Tier, processes: int, memory_bytes: int) -> None:
        self._directory: Path | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        self.group = ControlGroup.create(processes + _OWN_PROCESSES, memory_bytes)
        isolated = weakest != "rlimits"
        if not isolated:
            self._directory = Path(tempfile.mkdtemp(prefix="ringflow-sandbox-"))
        ours, theirs = socket.socketpair()
        self._socket = ours
        try:
            self._process = STARTER.submit(self._start, theirs, isolated).result(timeout=_START_S)
            theirs.close()
            code = filter_bytes()
            # RLIMIT_NPROC counts the user's processes on the whole machine, so it only bounds where no cgroup does.
            fallback = processes + _OWN_PROCESSES if not self.group.processes and isolated else 1 << 20
            settings = {"isolated": isolated, "seccomp": (code or b"").hex(), "processes": fallback}
            try:
                facts = self.ask(settings, _START_S)
            except InfrastructureError as error:
                raise InfrastructureError(f"{error}. {REMEDY}") from error
            self.tier, self.missing = tier_in_force(facts, self.group)
            require_tier(self.tier, weakest, self.missing)
        except BaseException:
            theirs.close()
            self.close()
            raise

    def _start(self, theirs: socket.socket, isolated: bool) -> subprocess.Popen:
        fd = theirs.fileno()
        command = bubblewrap_command(fd) if isolated else plain_command(fd)
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        if self._directory is not None:
            environment["RINGFLOW_SANDBOX_DIRECTORY"] = str(self._directory)
        return subprocess.Popen(
            self.group.joined(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            pass_fds=[fd],
            env=environment,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict, deadline_s: float) -> dict:
        """Sends one frame and waits for the answer.

        Raises:
            DeadlineExceeded: no answer in time; the worker must be closed.
            InfrastructureError: the worker ended; the message has the end of its log.
        """
        ends = time.monotonic() + deadline_s
        body = json.dumps(message).encode("ascii")
        try:
            self._socket.settimeout(deadline_s)
            self._socket.sendall(struct.pack(">I", len(body)) + body)
            (length,) = struct.unpack(">I", self._read(4, ends))
            if length > _LARGEST_FRAME:
                raise InfrastructureError(f"the sandbox worker announced a frame of {length} bytes")
            return json.loads(self._read(length, ends))
        except TimeoutError:
            raise DeadlineExceeded(f"the sandbox worker gave no answer within {deadline_s:.0f} s") from None
        except (ConnectionError, EOFError, ValueError, struct.error) as error:
            raise InfrastructureError(f"the sandbox worker ended ({error}): {self._tail()}") from None

    def _read(self, count: int, ends: float) -> bytes:
        parts = []
        while count:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(min(count, 1 << 20))
            if not part:
                raise EOFError("end of stream")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _tail(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        return self._log.read().decode("utf-8", "replace").strip() or "its log is empty"

    def close(self) -> None:
        """Ends the worker with everything in it; waits a bounded time for the kernel to clear the control groups."""
        self._socket.close()
        process = getattr(self, "_process", None)
        if process is not None:
            if self._directory is None:
                process.kill()
            else:  # without a pid namespace the supervisor has to clear up: the closed socket tells it to end
                try:
                    process.wait(_END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait(_END_S)
        ends = time.monotonic() + _END_S
        while not self.group.remove() and time.monotonic() < ends:
            time.sleep(0.005)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._log.close()
