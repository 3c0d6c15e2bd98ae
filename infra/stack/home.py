"""RINGFLOW_HOME: the one directory that holds the state of the local stack.

    state.json        ports and process identities: what `up` remembers
    credentials.json  mode 0600: generated keys of the S3 server and of Ray, the address of a team's PostgreSQL
    s3.json           mode 0600: who may do what in the S3 server
    logs/             one file per server
    prefect/ mlflow/ s3/ ray/   the servers' own data
    lock              held while an `up` or a `down` works

Everything is written by rename, so that a kill at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from infra.stack.database import wanted

# Below this, SQLite and the S3 server start and then fail in the middle of a run.
MINIMUM_FREE_BYTES = 1 << 30
# A Unix socket path holds 107 bytes; Ray appends /session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store.
LONGEST_RAY_DIRECTORY = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def home_directory(home: Path | str | None = None) -> Path:
    """The absolute home: the argument, else RINGFLOW_HOME, else `.ringflow` in the working directory."""
    return Path(home or os.environ.get("RINGFLOW_HOME") or ".ringflow").expanduser().resolve()


def prepare(home: Path) -> None:
    """Creates the home, private to this user.

    Raises:
        BadInput: the path cannot be a directory of ours (a file is there, or it is not writable).
        InfrastructureError: the disk is full.
    """
    try:
        for directory in (home, *(home / name for name in ("logs", "prefect", "mlflow", "s3", "ray"))):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise _explain(error, home) from error
    free = shutil.disk_usage(home).free
    if free < MINIMUM_FREE_BYTES:
        raise InfrastructureError(
            f"{home}: {free >> 20} MiB are free on this disk, the stack needs {MINIMUM_FREE_BYTES >> 20} MiB. "
            "Free some space, or point RINGFLOW_HOME at another disk"
        )


def _explain(error: OSError, home: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfrastructureError(
            f"{home}: the disk is full ({error.strerror}). Free some space, or point RINGFLOW_HOME at another disk"
        )
    return BadInput(
        f"cannot keep the state of the stack here ({error.strerror})",
        where=str(error.filename or home),
        remedy="Point RINGFLOW_HOME at a directory you can write to",
    )


def write_json(path: Path, content: Any, *, mode: int = 0o644) -> None:
    """Writes by rename; the file never exists with wider permissions than `mode`."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp creates it 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except OSError as error:
        raise _explain(error, path.parent) from error


def read_state(home: Path) -> dict[str, Any]:
    """`{"ports": {name: port}, "services": {name: process}}`; empty when nothing ran here yet."""
    empty: dict[str, Any] = {"ports": {}, "services": {}}
    try:
        state = json.loads((home / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return empty
    except (json.JSONDecodeError, UnicodeDecodeError):
        # Ports are chosen again and the processes are found by their mark, so nothing is lost with this file.
        os.replace(home / "state.json", home / "state.json.unreadable")
        return empty
    return {**empty, **state}


def write_state(home: Path, state: dict[str, Any]) -> None:
    write_json(home / "state.json", state)


def credentials(home: Path, *, create: bool = False) -> dict[str, str]:
    """The generated keys: aws_access_key_id and aws_secret_access_key for the store, the same with `mlflow_` before
    them for MLflow's bucket, ray_auth_token; and `postgres`, the address of a team's database server or "".

    Raises:
        BadInput: there are none yet and `create` is false, or others can read the file.
    """
    path = home / "credentials.json"
    found: dict[str, str] = {}
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise BadInput(
                f"others can read the stack's credentials (mode {mode:04o})",
                where=str(path),
                remedy=f"chmod 600 {path}, or delete it after `ringflow down` to have new ones made",
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not create:
            raise BadInput(
                "the local stack was never started here", where=str(home), remedy="Run: ringflow up"
            ) from None
    except json.JSONDecodeError as error:
        raise BadInput(
            f"not JSON: {error}", where=str(path), remedy="Delete it; `ringflow up` makes new ones"
        ) from error
    made = {
        **{f"{owner}aws_access_key_id": "RING" + secrets.token_hex(8).upper() for owner in ("", "mlflow_")},
        **{f"{owner}aws_secret_access_key": secrets.token_hex(20) for owner in ("", "mlflow_")},
        "ray_auth_token": secrets.token_hex(32),
        "postgres": "",
        **found,
    }
    if create:
        made["postgres"] = wanted(made["postgres"])
        if made != found:
            write_json(path, made, mode=0o600)
    return made


def ray_directory(home: Path) -> Path:
    """Where Ray keeps its sessions: home/ray, through a short symbolic link where the path is too long for a socket.

    Raises:
        InfrastructureError: the link's name is taken by somebody else's file.
    """
    real = home / "ray"
    if len(os.fsencode(real)) <= LONGEST_RAY_DIRECTORY:
        return real
    link = Path(tempfile.gettempdir()) / f"rf-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    if not link.is_symlink() or link.readlink() != real:
        with _suppress_missing():
            link.unlink()
        link.symlink_to(real)
    if link.lstat().st_uid != os.getuid():
        raise InfrastructureError(f"{link} belongs to another user. Use a shorter RINGFLOW_HOME")
    return link


@contextmanager
def _suppress_missing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


@contextmanager
def locked(home: Path, *, deadline_s: float) -> Iterator[None]:
    """One `up` or `down` at a time; the kernel releases the lock when its holder dies.

    Raises:
        DeadlineExceeded: another one has held it for `deadline_s`.
    """
    give_up = time.monotonic() + deadline_s
    with open(home / "lock", "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    file.seek(0)
                    raise DeadlineExceeded(
                        f"another `ringflow up` or `down` (process {file.read().strip() or 'unknown'}) has worked on "
                        f"{home} for more than {deadline_s:.0f} s. Wait for it, or end it"
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
