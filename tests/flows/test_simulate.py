"""`ringflow simulate` on a cluster: tables that add up, JSON, a picture, and what it refuses."""

from __future__ import annotations

import json

import pytest
import typer.testing

from components.failures import BadInput
from flows.cli.app import app

CLUSTER = ["simulate", "ring-mini-2.0", "--devices", "64xH100", "--draws", "20", "--prompts", "2000"]


def invoke(*arguments: str):
    return typer.testing.CliRunner().invoke(app, list(arguments))


def test_tables_json_and_picture_of_a_cluster(tmp_path) -> None:
    picture = tmp_path / "mini.png"
    shown = invoke(*CLUSTER, "--wait", "10", "--price", "2", "--plot", str(picture))
    assert shown.exit_code == 0, shown.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "simulated, not measured" in shown.output
    for part in ("rlvr-1", "evaluate-rlhf", "p90", "cost at 2 a device-hour", "Daly"):
        assert part in shown.output
    lines = [line.rstrip() for line in shown.output.splitlines() if not line.startswith("picture")]
    assert max(map(len, lines)) <= 80

    found = json.loads(invoke(*CLUSTER, "--wait", "10", "--price", "2", "--json").output)
    assert found["simulated"] is True
    assert [stage["stage"] for stage in found["stages"]][:3] == ["corpus", "decontaminate", "mix"]
    assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"]["mean"])
    assert sum(stage["wall_seconds"]["mean"] for stage in found["stages"]) == pytest.approx(
        found["wall_seconds"]["mean"]
    )
    assert found["cost"]["p50"] == pytest.approx(2 * found["device_hours"]["p50"])
    calm = json.loads(invoke(*CLUSTER, "--mtbf", "0", "--noise", "0", "--json").output)
    assert calm["wall_seconds"]["p10"] == calm["wall_seconds"]["p90"] < found["wall_seconds"]["p10"]
    assert sum(stage["without_failures"] for stage in calm["stages"]) == pytest.approx(calm["wall_seconds"]["p50"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ring-mini-2.0"], "--devices 64xH100 or --measured RUN"),
        (["ring-1t", "--devices", "1024xH200", "--method", "today"], "an engine needs"),
        (["ring-flash-2.0", "--devices", "32xH100"], "would do"),
        (["nano", "--measured", "pyproject.toml"], "not JSON"),
        (["ring-mini-2.0", "--devices", "64xH100", "--save-rates", "x.json"], "no rates"),
    ],
)
def test_what_cannot_be_simulated_says_why(arguments: list[str], said: str) -> None:
    answer = invoke("simulate", *arguments)
    assert isinstance(answer.exception, BadInput)
    assert said in str(answer.exception)
