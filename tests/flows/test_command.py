"""What a mistyped command says: usage and the way out, exit code 2, and no talk of a defect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "model", "--bogus"], "No such option: --bogus"),
        (["bogus"], "No such command 'bogus'"),
        (["run"], "Missing argument"),
        (["serve", "model", "--port", "99999"], "Invalid value for '--port'"),
        ([], "Usage:"),
    ],
)
def test_a_mistyped_command_is_told_and_no_defect(arguments: list[str], told: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RINGFLOW_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert told in said
    assert "defect" not in said
    assert not list(tmp_path.iterdir())
