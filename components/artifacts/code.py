"""Which code ran: commit, uncommitted changes, lock file. Read once, when a run starts, because that code is what runs.

Git's own commands are asked, each with a deadline; a deployment without git has no commit to record.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.artifacts.digest import bytes_sha256, file_sha256
from components.redact import redacted_bytes

GIT_DEADLINE_S = 10
# A diff beyond this is no small correction: its digest and its beginning are kept.
DIFF_BYTES = 1 << 20


@dataclass(frozen=True)
class CodeState:
    """commit: 40 hex digits, empty without git. dirty: tracked files differ from it, or Python files are not in it.

    diff: `git diff HEAD` and the digests of Python files git does not know, at most DIFF_BYTES and without
    secrets; empty when clean.
    diff_sha256: digest of the whole diff as git gave it, also of one that was cut.
    lock, lock_sha256: the lock file and its digest.
    """

    commit: str = ""
    dirty: bool = False
    diff: bytes = b""
    diff_sha256: str = ""
    lock: str = ""
    lock_sha256: str = ""

    @classmethod
    def read(cls, repository: Path) -> CodeState:
        """The state of a work tree; its lock file is `*.lock`, else `requirements*.txt`, at the top."""
        commit = _git(repository, "rev-parse", "HEAD").decode().strip()
        diff = _diff(repository) if commit else b""
        locks = sorted(repository.glob("*.lock")) + sorted(repository.glob("requirements*.txt"))
        return cls(
            commit=commit,
            dirty=bool(diff),
            diff=_bounded(redacted_bytes(diff)),
            diff_sha256=bytes_sha256(diff) if diff else "",
            lock=locks[0].name if locks else "",
            lock_sha256=file_sha256(locks[0]) if locks else "",
        )

    def tags(self) -> dict[str, str]:
        """What people search runs by: git.commit, git.dirty, git.diff_sha256, lock.sha256."""
        found = {"git.commit": self.commit, "git.dirty": str(self.dirty).lower()} if self.commit else {}
        if self.diff_sha256:
            found["git.diff_sha256"] = self.diff_sha256
        return found | ({"lock.sha256": self.lock_sha256} if self.lock_sha256 else {})


def sources_sha256(repository: Path, folders: Sequence[str] = ("components", "tasks")) -> str:
    """A digest of all files in some folders by path and content: whether two machines have the same code."""
    paths = sorted(
        path for folder in folders for path in (repository / folder).rglob("*") if path.is_file() and _is_source(path)
    )
    lines = [f"{path.relative_to(repository).as_posix()} {file_sha256(path)}\n" for path in paths]
    return bytes_sha256("".join(lines).encode())


def _is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and not path.name.startswith(".")


def _diff(repository: Path) -> bytes:
    tracked = _git(repository, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff")
    names = _git(repository, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.py").split(b"\0")
    unknown = [
        f"# not in git: {path} sha256 {file_sha256(repository / path)}\n"
        for path in sorted(name.decode(errors="surrogateescape") for name in names if name)
    ]
    return tracked + "".join(unknown).encode(errors="surrogateescape")


def _bounded(diff: bytes) -> bytes:
    if len(diff) <= DIFF_BYTES:
        return diff
    return diff[:DIFF_BYTES] + f"\n# cut here: {len(diff)} bytes in all\n".encode()


def _git(repository: Path, *arguments: str) -> bytes:
    try:
        result = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, timeout=GIT_DEADLINE_S, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return b""
    return result.stdout if result.returncode == 0 else b""
