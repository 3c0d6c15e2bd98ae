"""Names of runs: what and when, and a retry keeps the one it has."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from flows import naming


@pytest.fixture
def name_of(monkeypatch):
    def name(flow: str, request: dict, now: str) -> str:
        context = SimpleNamespace(
            flow=SimpleNamespace(name=flow), flow_run=SimpleNamespace(name=now), parameters={"request": request}
        )
        monkeypatch.setattr(naming, "get_run_context", lambda: context)
        return naming.run_name()

    return name


@pytest.mark.parametrize(
    ("flow", "request_", "prefix"),
    [
        ("ring", {"recipe": "nano"}, "nano"),
        ("ring", {"recipe": "nano", "recipe_file": "here/mine.v2.yaml"}, "mine.v2"),
        ("stage", {"recipe": "nano", "stage": "sft"}, "nano-sft"),
        ("evaluate", {"recipe": "nano", "model": "models:/ring-nano@released"}, "evaluate-ring-nano@released"),
        ("housekeeping", {}, "housekeeping"),
    ],
)
def test_a_run_is_named_once(name_of, flow, request_, prefix) -> None:
    first = name_of(flow, request_, "cream-stingray")
    assert re.fullmatch(rf"{re.escape(prefix)}-\d{{4}}-\d{{6}}", first)
    assert name_of(flow, request_, f"{prefix}-0102-030405") == f"{prefix}-0102-030405"


def test_another_runs_name_is_no_name_of_this_one(name_of) -> None:
    assert name_of("ring", {"recipe": "nano"}, "nano-sft-0102-030405").startswith("nano-")
    assert name_of("ring", {"recipe": "nano"}, "nano-sft-0102-030405") != "nano-sft-0102-030405"
    assert name_of("ring", {"recipe": "mine.v2"}, "mineXv2-0102-030405") != "mineXv2-0102-030405"
