"""Control groups: they bound what resource limits cannot, the sum over processes of memory, processes and processor.

Used where this process may write them, in version 1 (a hierarchy for each controller) and version 2 (one hierarchy,
delegated to us). A bound that cannot be set is False in the group, and isolation.py says what that means for the tier.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_PREFIX = "ringflow-sandbox-"
_PERIOD_US = 50_000
_CONTROLLERS = ("pids", "memory", "cpu")


@dataclass
class ControlGroup:
    """The groups of one worker. `processes`, `memory`, `cpu`: whether each bound is in force."""

    processes: bool = False
    memory: bool = False
    cpu: bool = False
    paths: list[Path] = field(default_factory=list)
    _memory_path: Path | None = None
    _now: tuple[int, int] = (0, 0)
    _events: int | None = None  # a descriptor of the file with the count: it is read for every program

    @classmethod
    def create(cls, processes: int, memory_bytes: int, cpus: float, root: Path = ROOT) -> ControlGroup:
        """Makes the groups where this machine lets us.

        Args:
            processes, memory_bytes: bounds until `bound` sets those of a program.
            cpus: processors' worth of time.
        """
        group, name = cls(), f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        quota = max(1000, int(cpus * _PERIOD_US))
        if (root / "cgroup.controllers").exists():
            for parent in _delegated(root):
                path = parent / name
                if not _make(path):
                    continue
                group.paths.append(path)
                group.cpu = _write(path / "cpu.max", f"{quota} {_PERIOD_US}")
                _write(path / "memory.swap.max", 0)
                break
        else:
            for controller in _CONTROLLERS:
                path = root / controller / name
                if _make(path):
                    group.paths.append(path)
                    if controller == "cpu":
                        group.cpu = _write(path / "cpu.cfs_period_us", _PERIOD_US) and _write(
                            path / "cpu.cfs_quota_us", quota
                        )
        group.bound(processes, memory_bytes)
        return group

    def bound(self, processes: int, memory_bytes: int) -> None:
        """Sets the bounds of the program that runs next; the same ones again cost nothing."""
        if self._now == (processes, memory_bytes):
            return
        for path in self.paths:
            self.processes = _write(path / "pids.max", processes) or self.processes
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (path / name).exists():
                    self._memory_path = path
                    self.memory = _write(path / name, memory_bytes) or self.memory
        self._now = (processes, memory_bytes)

    def memory_kills(self) -> int:
        """Processes that the kernel killed here for want of memory."""
        if self._events is None:
            for name in ("memory.events", "memory.oom_control"):
                if self._memory_path is not None and (self._memory_path / name).exists():
                    self._events = os.open(self._memory_path / name, os.O_RDONLY | os.O_CLOEXEC)
                    break
            else:
                return 0
        said = os.pread(self._events, 4096, 0).partition(b"oom_kill ")[2]
        return int(said.split(maxsplit=1)[0]) if said else 0

    def joined(self, command: list[str]) -> list[str]:
        """The command, started inside the groups."""
        if not self.paths:
            return command
        joins = "".join(f"echo $$ > '{path / 'cgroup.procs'}' && " for path in self.paths)
        return ["/bin/sh", "-c", f'{joins} exec "$@"', "sandbox", *command]

    def remove(self) -> bool:
        """Removes the empty groups; False while a process is still ending."""
        if self._events is not None:
            os.close(self._events)
            self._events = None
        self.paths = [path for path in self.paths if not _remove(path)]
        return not self.paths


def leftover_groups(root: Path = ROOT) -> Iterator[Path]:
    """Groups of sandboxes whose process is gone: it was killed before it could remove them."""
    unified = (root / "cgroup.controllers").exists()
    for parent in _delegated(root) if unified else [root / controller for controller in _CONTROLLERS]:
        for path in parent.glob(f"{_PREFIX}*") if parent.is_dir() else ():
            owner = path.name[len(_PREFIX) :].partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                yield path


def sweep(root: Path = ROOT) -> None:
    """Removes the leftovers of killed processes; their programs died with them."""
    for path in leftover_groups(root):
        _remove(path)


def _delegated(root: Path) -> list[Path]:
    """Where version 2 may let us make a group: below our own group, beside it, at the top; controllers switched on."""
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().split("\n") if line.startswith("0::")), "/")
    here = root / own.strip("/")
    places = list(dict.fromkeys([here, here.parent if here != root else here, root]))
    for place in places:
        for controller in set(_CONTROLLERS) - set(_read(place / "cgroup.subtree_control").split()):
            _write(place / "cgroup.subtree_control", f"+{controller}")
    return [place for place in places if "memory" in _read(place / "cgroup.subtree_control").split()]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _make(path: Path) -> bool:
    try:
        path.mkdir()
    except OSError:
        return False
    return True


def _remove(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(path: Path, value: int | str) -> bool:
    if not path.exists():
        return False
    try:
        path.write_text(str(value))
    except OSError:
        return False
    return True
