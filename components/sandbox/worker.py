"""One worker: a sandboxed warm interpreter, its control socket and its end.

Helpers are started by exec from one long-lived thread: a fork of a threaded parent is never made, and the kernel ties
`--die-with-parent` to the thread that started the process, not to the process.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.failures import DeadlineExceeded, InfrastructureError
from components.sandbox.cgroup import ControlGroup, sweep
from components.sandbox.inside.frames import Reader, pack
from components.sandbox.isolation import (
    LIBRARIES,
    REMEDY,
    bubblewrap_command,
    find_libraries,
    is_host_root,
    plain_command,
    require_tier,
    tier_in_force,
    user_namespace,
)
from components.sandbox.seccomp import filter_bytes
from components.sandbox.types import Tier

# The one thread that starts helpers; it lives as long as this process.
STARTER = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")
_START_S = 30.0
_END_S = 5.0
_OWN_PROCESSES = 8  # bwrap's two, the zygote, the supervisor, process 1, a process that waits, and a margin
_OWN_MEMORY = 96 << 20  # zygote, supervisor and what they hold for a program: its files and outputs
_UNBOUNDED = 1 << 20
# Since Linux 5.14 RLIMIT_NPROC counts a user's processes in one user namespace, before that on the whole machine.
_COUNTED_APART = (5, 14)


class Worker:
    """A started worker. Not thread-safe: its owner gives it one request at a time.

    Args:
        weakest: weakest tier allowed.
        cpus: processors' worth of time for all its processes together, where a cpu control group is writable.
        libraries: packages that programs may import besides the standard library, imported before the fork.
    Raises:
        BadInput: a library is not installed.
        InfrastructureError: it did not start, or its tier is weaker than allowed.
    """

    def __init__(
        self, weakest: Tier, processes: int, memory_bytes: int, *, cpus: float = 2.0, libraries: Sequence[str] = ()
    ) -> None:
        self._directory: Path | None = None
        self._shown = find_libraries(libraries)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        sweep()
        self.group = ControlGroup.create(processes + _OWN_PROCESSES, memory_bytes + _OWN_MEMORY, cpus)
        self._memory_kills = 0
        isolated = weakest != "rlimits"
        if not isolated:
            self._directory = Path(tempfile.mkdtemp(prefix="ringflow-sandbox-"))
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._frames, self._ends = Reader(self._read), 0.0
        try:
            self._process, dropped = STARTER.submit(self._start, theirs, isolated).result(timeout=_START_S)
            theirs.close()
            settings = {
                "isolated": isolated,
                "drop_user": dropped,
                "seccomp": (filter_bytes() or b"").hex(),
                "processes": 0
                if isolated and (dropped or not self.group.processes) and _counts_apart()
                else _UNBOUNDED,
                "kept": not isolated or dropped or (filter_bytes() is not None and not is_host_root()),
                "directory": str(self._directory or ""),
                "libraries": list(libraries),
                "paths": self._paths(isolated),
            }
            try:
                facts, _ = self.ask(settings, (), _START_S)
            except InfrastructureError as error:
                raise InfrastructureError(f"{error}. {REMEDY}") from error
            self.tier, self.missing = tier_in_force(facts, self.group)
            require_tier(self.tier, weakest, self.missing)
        except BaseException:
            theirs.close()
            self.close()
            raise

    def _paths(self, isolated: bool) -> list[str]:
        if not self._shown:
            return []
        return [LIBRARIES] if isolated else sorted({str(path.parent) for path in self._shown.values()})

    def _start(self, theirs: socket.socket, isolated: bool) -> tuple[subprocess.Popen, bool]:
        fd = theirs.fileno()
        namespace = user_namespace() if isolated else None
        try:
            command = bubblewrap_command(fd, namespace, self._shown) if isolated else plain_command(fd)
            process = subprocess.Popen(
                self.group.joined(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=[fd] if namespace is None else [fd, namespace],
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
            )
        finally:
            if namespace is not None:
                os.close(namespace)
        return process, namespace is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def bound(self, processes: int, memory_bytes: int) -> None:
        """Bounds all processes of the next program together, where control groups are writable."""
        self.group.bound(processes + _OWN_PROCESSES, memory_bytes + _OWN_MEMORY)
        self._memory_kills = self.group.memory_kills()

    def memory_ended_it(self) -> bool:
        """Whether the kernel has killed for want of memory in here since `bound`: then the program took it."""
        return self.group.memory_kills() > self._memory_kills

    def tell(self, *frames: tuple[Any, Sequence[bytes]], deadline_s: float = _START_S) -> None:
        """Sends frames. Raises like `ask`."""
        try:
            self._socket.settimeout(deadline_s)
            self._socket.sendall(b"".join(pack(message, blobs) for message, blobs in frames))
        except TimeoutError:
            raise DeadlineExceeded(f"the sandbox worker took no request within {deadline_s:.0f} s") from None
        except OSError as error:
            raise InfrastructureError(f"the sandbox worker ended ({error}): {self._tail()}") from None

    def hear(self, deadline_s: float) -> tuple[dict[str, Any], list[bytes]]:
        """Waits for one frame. Raises like `ask`."""
        self._ends = time.monotonic() + deadline_s
        try:
            return self._frames.frame()
        except TimeoutError:
            raise DeadlineExceeded(f"the sandbox worker gave no answer within {deadline_s:.0f} s") from None
        except (ConnectionError, EOFError, ValueError, struct.error) as error:
            raise InfrastructureError(f"the sandbox worker ended ({error}): {self._tail()}") from None

    def ask(self, message: Any, blobs: Sequence[bytes], deadline_s: float) -> tuple[dict[str, Any], list[bytes]]:
        """Sends one frame and waits for the answer.

        Raises:
            DeadlineExceeded: no answer in time; the worker must be closed.
            InfrastructureError: the worker ended; the message has the end of its log.
        """
        self.tell((message, blobs), deadline_s=deadline_s)
        return self.hear(deadline_s)

    def _read(self, count: int) -> bytes:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket.recv(count)

    def _tail(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        return self._log.read().decode("utf-8", "replace").strip() or "its log is empty"

    def close(self) -> None:
        """Ends the worker with everything in it; waits a bounded time for the kernel to clear the control groups."""
        with contextlib.suppress(OSError):  # a thread that waits for an answer hears of it, and so does the supervisor
            self._socket.shutdown(socket.SHUT_RDWR)
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


def _counts_apart() -> bool:
    release = platform.release().split(".")
    try:
        return (int(release[0]), int(release[1])) >= _COUNTED_APART
    except (ValueError, IndexError):
        return False
