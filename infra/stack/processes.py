"""Processes of the stack: started in their own session, told apart from any other process, ended with all they started.

A pid alone proves nothing after a crash or a reboot. A process is ours when its pid, its start time (clock ticks since
boot, and the boot's id) and the mark in its environment say so. Descendants are found three ways, because each misses
some: by parent, by session (Ray's workers overwrite their environment when they set their title) and by mark (orphans
of a leader that was killed).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = "RINGFLOW_SERVICE_OF"


@dataclass(frozen=True)
class Identity:
    """What a pid must still match to be the process that was started."""

    pid: int
    started: str

    def as_json(self) -> dict[str, int | str]:
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    pid: int
    parent: int
    session: int
    started: str
    zombie: bool


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _entry(pid: int, boot: str) -> _Entry | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command is in parentheses and may hold blanks and parentheses of its own.
    fields = text[text.rindex(")") + 2 :].split()
    return _Entry(pid, int(fields[1]), int(fields[3]), f"{boot}:{fields[19]}", fields[0] in "ZX")


def _table() -> dict[int, _Entry]:
    boot = _boot()
    entries = (_entry(int(name), boot) for name in os.listdir("/proc") if name.isdigit())
    return {entry.pid: entry for entry in entries if entry is not None and not entry.zombie}


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def alive(identity: Identity | None) -> bool:
    """Whether exactly that process still runs; a zombie and a recycled pid do not count."""
    if identity is None:
        return False
    _reap(identity.pid)
    entry = _entry(identity.pid, _boot())
    return entry is not None and not entry.zombie and entry.started == identity.started


def mark_of(home: Path, service: str) -> str:
    return f"{service}@{home}"


def _mark(pid: int) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{MARK}=".encode()
    return next((os.fsdecode(line[len(prefix) :]) for line in variables if line.startswith(prefix)), None)


def members(mark: str, leader: Identity | None) -> set[Identity]:
    """The service with this mark: its leader and all it started, never this process or its parents."""
    table = _table()
    found = {pid for pid in table if _mark(pid) == mark}
    if leader is not None and alive(leader):
        found.add(leader.pid)
    # A session's number is its leader's pid and cannot be reused while the session has members.
    sessions = {table[pid].session for pid in found if pid in table and _mark(table[pid].session) in (mark, None)}
    sessions -= {os.getsid(0)}
    found |= {pid for pid, entry in table.items() if entry.session in sessions}
    children = found
    while children:
        children = {pid for pid, entry in table.items() if entry.parent in found} - found
        found |= children
    ancestor = os.getpid()
    while ancestor in table:
        found.discard(ancestor)
        ancestor = table[ancestor].parent
    return {Identity(pid, table[pid].started) for pid in found if pid in table}


def start(command: Sequence[str], *, environment: Mapping[str, str], log: Path, cwd: Path) -> Identity:
    """Starts a server that outlives this process; both its streams are appended to `log`.

    Raises:
        OSError: the program cannot be executed.
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.returncode = 0  # the server is meant to outlive this object, which would warn about that when it is freed
    entry = _entry(process.pid, _boot())
    # A child that ended already is a zombie until we reap it, so its entry is still there.
    assert entry is not None
    return Identity(process.pid, entry.started)


def _signal(processes: Iterable[Identity], number: int) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def end(services: Mapping[str, Identity | None], *, grace_s: float = 10.0) -> list[int]:
    """Ends services (mark -> leader) together: asks the leaders, after half the grace all members, then kills.

    Returns the pids that ran. A process that a service starts meanwhile is ended too.
    """
    targets: set[Identity] = set()
    began = time.monotonic()
    asked: set[Identity] = set()
    while True:
        for mark, leader in services.items():
            targets |= members(mark, leader)
        left = {process for process in targets if alive(process)}
        if not left:
            return sorted(process.pid for process in targets)
        leaders = {process for process in left if process in services.values()}
        waited = time.monotonic() - began
        if waited > grace_s:
            _signal(left, signal.SIGKILL)
        else:
            ask = (leaders if leaders and waited < grace_s / 2 else left) - asked
            _signal(ask, signal.SIGTERM)
            asked |= ask
        time.sleep(0.1)
