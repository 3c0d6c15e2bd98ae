"""Advisories in OSV's format against installed packages: versions, ranges, withdrawn records, no database at all."""

from __future__ import annotations

import json
import zipfile

import pytest
from typer.testing import CliRunner

from components.failures import BadInput
from flows.cli.app import app
from infra.bom.advisories import audit, is_affected
from infra.bom.installed import Package
from infra.bom.licences import Licence


def package(name: str, version: str) -> Package:
    return Package(name, version, Licence("MIT", True))


def record(number: int, name: str, events, versions=(), ecosystem="PyPI", kind="ECOSYSTEM", **more) -> dict:
    part = {
        "package": {"ecosystem": ecosystem, "name": name},
        "ranges": [{"type": kind, "events": list(events)}],
        "versions": list(versions),
    }
    about = {"id": f"GHSA-{number}", "modified": f"2026-01-0{number}T00:00:00Z", "summary": "a hole"}
    return about | {"affected": [part]} | more


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("0.9", False),
        ("1.0", True),
        ("1.2.9", True),
        ("1.3", False),
        ("2.0rc1", False),
        ("2.0", True),
        ("2.1.post1", False),
    ],
)
def test_ranges_are_read_as_the_schema_says(version, affected):
    events = [{"introduced": "1.0"}, {"fixed": "1.3"}, {"introduced": "2.0"}, {"last_affected": "2.1"}]
    (part,) = record(1, "x", events)["affected"]
    assert is_affected(version, part) == bool(affected)
    (part,) = record(1, "x", reversed(events))["affected"]
    assert is_affected(version, part) == bool(affected)


def test_versions_are_compared_and_not_spelled():
    (part,) = record(1, "x", [], versions=["1.0.0", "not-a-version"])["affected"]
    assert is_affected("1", part)
    assert not is_affected("1.0.1", part)


def written(path, records):
    path.mkdir()
    for one in records:
        (path / f"{one['id']}.json").write_text(json.dumps(one))
    return path


def test_what_is_installed_is_found_by_its_normal_name_with_the_next_fix(tmp_path):
    everything = [{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.5"}]
    database = written(
        tmp_path / "osv",
        [
            record(1, "Some_Package", everything, aliases=["CVE-1"]),
            record(2, "some-package", everything, withdrawn="2026-01-01T00:00:00Z"),
            record(3, "some-package", everything, ecosystem="npm"),
            record(4, "some-package", [{"introduced": "0"}], kind="GIT"),
            record(5, "other", everything),
        ],
    )
    found = audit([package("some.package", "2.1"), package("third", "1")], database)
    assert (found.records, found.newest) == (4, "2026-01-05T00:00:00Z")
    (one,) = found.found
    assert (one.package, one.version, one.id, one.aliases, one.fixed) == (
        "some.package",
        "2.1",
        "GHSA-1",
        ("CVE-1",),
        ("2.5",),
    )


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps(record(1, "x", [], ecosystem="npm")), "{"])
def test_a_database_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "osv").mkdir()
    if content:
        (tmp_path / "osv" / "a.json").write_text(content)
    with pytest.raises(BadInput, match="osv"):
        audit([package("x", "1")], tmp_path / "osv")
    with pytest.raises(BadInput, match="absent"):
        audit([package("x", "1")], tmp_path / "absent.zip")


def test_the_command_reads_a_zip_and_its_exit_code_says_it(tmp_path):
    def archive(events):
        path = tmp_path / "all.zip"
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("GHSA-1.json", json.dumps(record(1, "Typer", events)))
        return ["sbom", "--advisories", str(path)]

    affected = CliRunner().invoke(app, archive([{"introduced": "0"}]))
    assert affected.exit_code == 1
    assert "advisories: 1 (1 records asked, the newest of 2026-01-01)" in affected.output
    assert "GHSA-1; fixed in no version" in affected.output
    safe = CliRunner().invoke(app, [*archive([{"introduced": "0"}, {"fixed": "0.0.1"}]), "--json"])
    assert safe.exit_code == 0
    assert json.loads(safe.output)["advisories"] == {"records": 1, "newest": "2026-01-01T00:00:00Z", "found": []}
