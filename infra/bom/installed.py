"""The packages of an environment, from their installed metadata, with the hashes that the lock accepts for them."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from components.failures import BadInput
from infra.bom.licences import Licence, licence_of

PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """sha256: of every file the lock accepts for this version, sorted; empty when the lock has another or none.

    files: names of the licence texts that the package brought.
    """

    name: str
    version: str
    licence: Licence
    sha256: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def normal(name: str) -> str:
    """A package's name as registries compare it: lower case, one dash between parts."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_locks(paths: Iterable[Path]) -> dict[tuple[str, str], tuple[str, ...]]:
    """{(normal name, version): sha256 of its files} of several requirements files with hashes. Raises BadInput."""
    return {key: digests for path in paths for key, digests in read_lock(path).items()}


def read_lock(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """The same of one.

    Raises:
        BadInput: it cannot be read, or pins nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", where=str(path), remedy="Name the lock with --lock") from None
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        if pin := PIN.match(entry):
            found[normal(pin[1]), pin[2]] = tuple(sorted(HASH.findall(entry)))
    if not found:
        raise BadInput("pins no package", where=str(path), remedy="It has lines such as name==1.0 --hash=sha256:...")
    return found


def installed() -> Iterable[metadata.Distribution]:
    """What stands in this interpreter's own directories; sys.path may also have copies that setuptools keeps."""
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return metadata.distributions(path=list(places))


def packages(
    lock: Mapping[tuple[str, str], Sequence[str]], distributions: Iterable[metadata.Distribution] | None = None
) -> list[Package]:
    """Every package, by name. distributions: `installed()` when None; the first of a name counts."""
    found: dict[str, Package] = {}
    for distribution in installed() if distributions is None else distributions:
        given = distribution.metadata
        name = given.get("Name") if given else None
        if not name or normal(name) in found:
            continue
        key = (normal(name), distribution.version)
        files = sorted({Path(str(path)).name for path in distribution.files or () if _is_licence(Path(str(path)))})
        found[key[0]] = Package(key[0], key[1], licence_of(given), tuple(sorted(lock.get(key, ()))), tuple(files))
    return [found[name] for name in sorted(found)]


def _is_licence(path: Path) -> bool:
    inside = any(part.endswith(".dist-info") for part in path.parts[:-1])
    return inside and bool(LICENCE_FILE.search(path.name))
