"""Scores with and without the items that stand in the training data."""

import json
from dataclasses import replace

import pytest

from components.evaluation.flagged import compare, read_flagged, read_searched, table, write_compared
from components.evaluation.scores import summarise
from components.evaluation.types import Answer

ANSWER = Answer("sums", "1", 0, "math", "sum", 1, 0, "p", "r", "2", "", "correct", 1.0, "stop", 3)


def evaluation():
    answers = [
        replace(ANSWER, item=str(n), outcome="correct" if n < 4 else "wrong", value=float(n < 4)) for n in range(8)
    ]
    other = [replace(ANSWER, benchmark="codes", item=str(n)) for n in range(2)]
    return summarise([*answers, *other], {"confidence": 0.95}, 0.95)


FLAGGED = {
    "sums": {
        "0": {"level": "exact", "decision": "removed"},
        "1": {"level": "semantic", "decision": "removed"},
        "5": {"level": "semantic", "decision": "review"},
    },
    "elsewhere": {"0": {"level": "exact", "decision": "removed"}},
}


def test_flagged_items_are_left_out_of_their_benchmark_and_of_all():
    compared = compare(evaluation(), FLAGGED)
    assert set(compared) == {"sums", "overall"}
    assert compared["sums"].items == {"exact": 1, "semantic": 1}
    assert compared["sums"].all.value == 0.5
    assert compared["sums"].without.value == pytest.approx(2 / 6)
    assert compared["overall"].without.value == pytest.approx(4 / 8)
    assert "2 exact" not in table(compared)
    assert "50.0" in table(compared)


def test_nothing_flagged_and_nothing_left(tmp_path):
    assert compare(evaluation(), {}) == {}
    assert "No item" in table({})
    assert table({}, ["gsm8k"]) == "<p>The training data was not searched for gsm8k.</p>"
    everything = {"codes": {str(n): {"level": "exact", "decision": "removed"} for n in range(2)}}
    compared = compare(evaluation(), everything)
    assert compared["codes"].without is None
    assert "none left" in table(compared)
    write_compared(tmp_path / "flagged.json", compared)
    assert json.loads((tmp_path / "flagged.json").read_text())["codes"]["without"] is None


def test_older_artifacts_flag_nothing(tmp_path):
    (tmp_path / "decontamination.json").write_text('{"counts": {}}')
    assert read_flagged(tmp_path / "decontamination.json") == {}
    assert read_searched(tmp_path / "decontamination.json") == frozenset()
