"""The installer's messages and the lock's promises. The installation itself is what `make test` starts with."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "infra/install/uv.lock")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the installer needs of a checkout, without an environment."""
    place = tmp_path / "checkout"
    shutil.copytree(ROOT / "infra" / "install", place / "infra" / "install")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, place / name)
    return place


def install(checkout: Path, programs: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the installer where PATH holds the basic tools and `programs` (name -> shell script) only."""
    tools = checkout.parent / "bin"
    tools.mkdir()
    basic = {"sh", "cat", "cut", "sha256sum", "uname", "id", "dirname", "rm", "env", "sed", "sort", "head", "tr"}
    for name in basic - programs.keys():
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    for name, script in programs.items():
        # Exclusive creation: a write through one of the links above would replace the machine's own program.
        with open(tools / name, "x", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(stat.S_IRWXU)
    environment = {"PATH": str(tools), "HOME": str(checkout.parent), **variables}
    command = [str(tools / "sh"), "infra/install/install.sh"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


def test_another_python_is_one_clear_line(checkout: Path) -> None:
    old = 'case "$1" in --version) echo Python 3.9.2;; *) echo 3.9;; esac'
    run = install(checkout, {"python3": old, "python": old})
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1, run.stderr
    assert "Python 3.11 is needed" in run.stderr
    assert "Python 3.9.2" in run.stderr
    assert not (checkout / ".venv").exists()


def test_a_missing_venv_module_names_the_package(checkout: Path) -> None:
    # Debian's python3 without python3-venv: the right version, but `import ensurepip` fails.
    bare = 'case "$2" in *version_info*) echo 3.11;; *) exit 1;; esac'
    run = install(checkout, {"python3.11": bare, "apt-get": "exit 1", "id": "echo 1000"})
    assert run.returncode == 1
    assert run.stderr.strip() == "install: missing here: python3.11-venv. Run: sudo apt-get install python3.11-venv"


def test_another_machine_is_one_clear_line(checkout: Path) -> None:
    run = install(checkout, {"uname": 'case "$1" in -s) echo Darwin;; *) echo arm64;; esac'})
    assert run.returncode == 1
    assert (
        run.stderr.strip()
        == "install: the CPU lock is for Linux on x86_64, this is Darwin on arm64; see docs/install.md"
    )


def test_with_nothing_changed_it_ends_at_once() -> None:
    if not (ROOT / ".venv" / ".ringflow-installed").exists():
        pytest.skip("this environment was not made by `make install`")
    began = time.monotonic()
    run = subprocess.run(["make", "install"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert "done" not in run.stdout, "the stamp did not match: the lock or pyproject.toml changed since `make install`"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_pins_everything_by_hash_and_names_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|--find-links|--index|--extra-index| @ ", text)
    assert str(Path.home()) not in text
    entries = re.split(r"\n(?=[a-z0-9])", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_lock_has_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["cpu"], *extras["dev"]]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,-]+\])?==", lock, re.MULTILINE))
    names = {re.match(r"[A-Za-z0-9._-]+", line).group().lower() for line in asked}
    assert names <= locked, f"run `make lock`: {sorted(names - locked)}"
    assert not locked & {"triton", "torchvision", "torchaudio", "torchcodec"}


def test_the_ci_entry_passes_the_exit_code_of_make_test_through(tmp_path: Path) -> None:
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "make $*"\nexit 7\n', encoding="utf-8")
    fake.chmod(stat.S_IRWXU)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    entry = ["bash", str(ROOT / ".ci" / "run")]
    run = subprocess.run(entry, env=environment, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip()) == (7, "make test")
