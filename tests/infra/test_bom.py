"""The bill of materials: complete, the same twice, with the lock's hashes; a licence is declared, or called unknown."""

from __future__ import annotations

import json
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.failures import BadInput
from flows.cli.app import app
from flows.cli.sbom import LOCKS
from infra.bom.cyclonedx import as_text, document
from infra.bom.installed import normal, packages, read_lock, read_locks
from infra.bom.licences import Licence, licence_of
from infra.bom.report import report


def declared(*fields: tuple[str, str]) -> Licence:
    message = Message()
    for name, value in fields:
        message[name] = value
    return licence_of(message)


MIT, BSD = "License :: OSI Approved :: MIT License", "License :: OSI Approved :: BSD License"
GPL = "License :: OSI Approved :: GNU General Public License v2 or later (GPLv2+)"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "x")], Licence("MIT OR Apache-2.0", True)),
        ([("License", "Apache 2.0")], Licence("Apache-2.0", True)),
        ([("License", "MPL-2.0 AND MIT")], Licence("MPL-2.0 AND MIT", True)),
        ([("License", "MIT License\n\nCopyright (c) somebody")], Licence()),
        ([("License", "MIT License\n\nCopyright"), ("Classifier", MIT)], Licence("MIT", True)),
        ([("License", "UNKNOWN")], Licence()),
        ([("License", "BSD"), ("Classifier", BSD)], Licence("BSD License")),
        ([("License", "Dual License"), ("Classifier", MIT), ("Classifier", GPL)], Licence(f"{GPL[27:]} / {MIT[27:]}")),
        ([("License", "Our own terms")], Licence("Our own terms")),
        ([("Classifier", "License :: OSI Approved")], Licence()),
        ([], Licence()),
    ],
)
def test_a_licence_is_what_the_package_declares(fields: list[tuple[str, str]], expected: Licence) -> None:
    assert declared(*fields) == expected


def test_copyleft_is_seen_in_expressions_and_words() -> None:
    for text in ("LGPL-2.1-only", "MPL-2.0 AND (Apache-2.0 OR MIT)", "AGPL-3.0-only", GPL[27:], "GPL-2.0-or-later"):
        assert Licence(text).copyleft, text
    assert not any(Licence(text).copyleft for text in ("MIT", "BSD-3-Clause", "Apache-2.0 WITH LLVM-exception"))


def fake(root: Path, name: str, version: str, *lines: str, file: str = "") -> metadata.Distribution:
    folder = root / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    )
    (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n" + (f"{folder.name}/{file},,\n" if file else ""))
    return metadata.Distribution.at(folder)


LOCK = f"""# a comment
Good.Name[extra]==1.0 ; python_version > "3" \\
    --hash=sha256:{"b" * 64} \\
    --hash=sha256:{"a" * 64}
    # via ringflow
moved==2.0 \\
    --hash=sha256:{"c" * 64}
"""


def test_hashes_come_from_the_lock_and_only_for_the_same_version(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    given = [
        fake(tmp_path, "moved", "2.1", "License: MIT"),
        fake(tmp_path, "good_name", "1.0", "License-Expression: MIT"),
        fake(tmp_path, "silent", "3", file="licenses/LICENSE.txt"),
        fake(tmp_path, "ringflow", "0.1.0", "License: Apache-2.0"),
    ]
    found = packages(read_lock(tmp_path / "lock"), given)
    assert [(p.name, p.sha256) for p in found] == [
        ("good-name", ("a" * 64, "b" * 64)),
        ("moved", ()),
        ("ringflow", ()),
        ("silent", ()),
    ]
    assert report(found, "ringflow") == {
        "packages": 3,
        "licences": {"MIT": 2, "unknown": 1},
        "copyleft": {},
        "unclear": {},
        "unknown": {"silent 3": ["LICENSE.txt"]},
        "unlocked": ["moved 2.1", "silent 3"],
    }
    made = document(found, "ringflow")
    assert made["metadata"]["component"]["type"] == "application"
    assert made["metadata"]["component"]["version"] == "0.1.0"
    good, moved, silent = made["components"]
    assert good["purl"] == good["bom-ref"] == "pkg:pypi/good-name@1.0"
    assert [entry["content"] for entry in good["hashes"]] == ["a" * 64, "b" * 64]
    assert good["licenses"] == [{"license": {"id": "MIT", "acknowledgement": "declared"}}]
    assert "hashes" not in moved
    assert "licenses" not in silent


def test_the_same_environment_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    given = [fake(tmp_path, name, "1", "License: MIT") for name in ("b", "a", "c")]
    first, second = packages({}, given), packages({}, reversed(given))
    assert as_text(document(first, "a")) == as_text(document(second, "a"))
    assert document(first, "a")["serialNumber"] != document(first[:2], "a")["serialNumber"]


def test_copies_that_a_package_keeps_inside_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "kept-inside", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "kept-inside" in {d.metadata["Name"] for d in metadata.distributions()}
    assert "kept-inside" not in {package.name for package in packages({})}


def test_a_lock_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_lock(tmp_path / "absent")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(BadInput, match="pins no package"):
        read_lock(tmp_path / "empty")


def test_the_command_describes_this_environment(tmp_path: Path) -> None:
    outs = [tmp_path / "a.json", tmp_path / "b" / "b.json"]
    for out in outs:
        ran = CliRunner().invoke(app, ["sbom", "--out", str(out), "--json"], catch_exceptions=False)
        assert ran.exit_code == 0
    told = json.loads(ran.stdout)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    made = json.loads(outs[0].read_text())
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"]["name"] == "ringflow"
    folder = Path(pytest.__file__).parents[1]
    here = {normal(d.metadata["Name"]): d.version for d in metadata.distributions(path=[str(folder)])}
    here.pop("ringflow")
    assert {c["name"]: c["version"] for c in made["components"]} == here
    assert told["packages"] == len(here) == sum(told["licences"].values())
    references = [c["bom-ref"] for c in made["components"]]
    assert len(set(references)) == len(references)
    locked = read_locks(LOCKS)
    for component in made["components"]:
        digests = [entry["content"] for entry in component.get("hashes", [])]
        assert digests == sorted(locked.get((component["name"], component["version"]), ())), component["name"]
    assert told["unlocked"] == [name for name in told["unlocked"] if name.partition(" ")[0] == "pip"]
    assert made["components"][0].keys() >= {"type", "bom-ref", "name", "version", "purl", "hashes"}
    printed = CliRunner().invoke(app, ["sbom"], catch_exceptions=False).stdout
    assert "unknown: " in printed
    assert f"{len(here)} packages" in printed
