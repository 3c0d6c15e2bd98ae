"""Which process is this, and is that one still alive: the identity a lease holder leaves behind."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ProcessIdentity(BaseModel):
    """`machine` is one boot of one host and one PID namespace; `started` are clock ticks since boot, so a reused PID
    is told apart from the process that had it before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    machine: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        pid = os.getpid()
        return cls(host=platform.node(), machine=_machine(), pid=pid, started=_started(pid) or 0)

    def certainly_dead(self) -> bool:
        """True only if the process ran on this very machine and is gone (or a zombie). Elsewhere nobody can know."""
        if not self.machine or self.machine != _machine():
            return False
        started = _started(self.pid)
        return _gone(self.pid) if started is None else started != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def boot_seconds() -> float:
    """A clock that never jumps and goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def process_began() -> float:
    """When this process started, on the clock of boot_seconds; now, where /proc does not tell."""
    started = _started(os.getpid())
    return boot_seconds() if started is None else started / os.sysconf("SC_CLK_TCK")


def _machine() -> str:
    """Empty where /proc does not tell: then no process is ever certainly dead."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None for a dead one or a zombie."""
    try:
        # The command name, field 2, is in parentheses and may hold spaces; fields after it are separated by spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _gone(pid: int) -> bool:
    """No such process, or a zombie; one that /proc merely hides from this user is not gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return Path(f"/proc/{pid}/stat").exists()
