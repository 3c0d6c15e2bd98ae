"""SHA-256 of files, directory trees and canonical JSON: the one place bytes become identities."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.artifacts.fingerprint import canonical_json
from components.artifacts.spent import spent_on

# hashlib releases the interpreter lock for blocks this large, so threads hash in parallel.
HASH_THREADS = min(8, (os.cpu_count() or 2) * 2)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bytes_sha256(data: bytes) -> str:
    """Hex digest of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Hex digest of the canonical JSON of `value` (see canonical_json for what is refused)."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def tree(directory: Path) -> list[str]:
    """Relative POSIX paths of every regular file below `directory`, sorted. Symbolic links to files are followed."""
    return sorted(path.relative_to(directory).as_posix() for path in Path(directory).rglob("*") if path.is_file())


def tree_digests(directory: Path) -> dict[str, tuple[int, str]]:
    """{relative path: (bytes, sha256)} of every file below `directory`, hashed in parallel."""
    paths = tree(directory)
    with spent_on("hashing"), ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = list(pool.map(lambda path: file_sha256(directory / path), paths))
    return {path: ((directory / path).stat().st_size, digest) for path, digest in zip(paths, digests, strict=True)}
