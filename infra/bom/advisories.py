"""Known vulnerabilities of installed packages, from a copy of the OSV database: nothing leaves the machine.

Records are OSV JSON (https://ossf.github.io/osv-schema), as the export of the ecosystem PyPI has them: a zip, or a
folder of files. A version is affected when a record lists it, or when it lies in a range of type ECOSYSTEM, compared as
PEP 440 says; ranges of commits say nothing about a release and are passed over. Withdrawn records do not count.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from components.failures import BadInput
from infra.bom.installed import Package, normal

ECOSYSTEM = "PyPI"
_REMEDY = "Give the zip with OSV's records of PyPI, or a folder of OSV JSON files"


@dataclass(frozen=True)
class Advisory:
    """One that affects an installed package. fixed: the first fixed versions, in order; empty when none is known."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """records: read. newest: when the youngest of them was modified, as it says. found: sorted by package and id."""

    records: int
    newest: str
    found: tuple[Advisory, ...]


def audit(packages: Sequence[Package], database: Path) -> Audit:
    """Looks every package up.

    Raises:
        BadInput: the database cannot be read, a record is none, or there is no record of the ecosystem at all: an empty
            answer must mean that nothing is known, not that nothing was asked.
    """
    installed = {normal(package.name): package for package in packages}
    found, count, newest = [], 0, ""
    for where, record in _records(database):
        try:
            affected = [part for part in record.get("affected", ()) if part["package"]["ecosystem"] == ECOSYSTEM]
            if not affected:
                continue
            count, newest = count + 1, max(newest, record.get("modified", ""))
            if "withdrawn" not in record:
                found += _of(record, affected, installed)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"not an OSV record: {error!r}", where=where, remedy=_REMEDY) from None
    if not count:
        raise BadInput(f"holds no record of {ECOSYSTEM}", where=str(database), remedy=_REMEDY)
    return Audit(count, newest, tuple(sorted(set(found), key=lambda one: (one.package, one.id))))


def _of(
    record: Mapping[str, Any], affected: Sequence[Mapping[str, Any]], installed: Mapping[str, Package]
) -> Iterator[Advisory]:
    for part in affected:
        package = installed.get(normal(part["package"]["name"]))
        if package is None or not is_affected(package.version, part):
            continue
        events = [event for span in part.get("ranges", ()) if span["type"] == "ECOSYSTEM" for event in span["events"]]
        fixed = {event["fixed"] for event in events if "fixed" in event}
        later = [text for text in fixed if _version(text) > _version(package.version)]
        yield Advisory(
            package=package.name,
            version=package.version,
            id=record["id"],
            aliases=tuple(record.get("aliases", ())),
            summary=(record.get("summary") or record.get("details", "")).strip().partition("\n")[0],
            fixed=tuple(sorted(later, key=_version)),
        )


def is_affected(version: str, part: Mapping[str, Any]) -> bool:
    """Whether an `affected` entry of a record speaks of this version."""
    wanted = _version(version)
    if any(_version(listed) == wanted for listed in part.get("versions", ())):
        return True
    return any(span["type"] == "ECOSYSTEM" and _in_range(wanted, span["events"]) for span in part.get("ranges", ()))


def _in_range(version: Version, events: Sequence[Mapping[str, str]]) -> bool:
    """The schema's evaluation: events by version; the last one at or before the version decides."""
    inside = False
    for event in sorted(events, key=lambda event: _version(next(iter(event.values())))):
        if "introduced" in event and version >= _version(event["introduced"]):
            inside = True
        if ("fixed" in event and version >= _version(event["fixed"])) or (
            "last_affected" in event and version > _version(event["last_affected"])
        ):
            inside = False
    return inside


def _version(text: str) -> Version:
    """By PEP 440; what is no version of it comes before all others, as old releases that nobody installs do."""
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0.dev0")


def _records(database: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        if database.is_dir():
            for path in sorted(database.rglob("*.json")):
                yield str(path), json.loads(path.read_bytes())
            return
        with zipfile.ZipFile(database) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".json"):
                    yield f"{database}:{name}", json.loads(archive.read(name))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise BadInput(f"cannot be read: {error}", where=str(database), remedy=_REMEDY) from None
