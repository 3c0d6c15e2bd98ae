"""Real Great Expectations runs: severity decides, the message can be acted on, Data Docs are there."""

import json

import pytest

from components.data.gates import run_gates
from components.data.schema import Message, SftRecord
from components.data.statistics import boxed, columns, has_answer, has_think
from components.data.suites import suite
from components.failures import BadInput
from components.recipe.data import GateConfig


def record(number, response="<think>because</think>\\boxed{4}", prompt="How much?"):
    prompt = (Message(role="user", content=f"{prompt}{number}" if prompt else ""),)
    return SftRecord(
        id=f"{number:016x}", source=f"a.jsonl#{number}", domain="math", family="f", prompt=prompt, response=response
    )


def gate(records, directory, **config):
    return run_gates({"sft": (suite("sft", GateConfig(**config), 1000), columns(records, len))}, directory)


def test_good_records_pass_and_docs_are_written(tmp_path):
    report = gate([record(n) for n in range(20)], tmp_path)
    assert report.findings == ()
    assert report.evaluated >= 8
    assert (tmp_path / "docs" / "index.html").is_file()
    assert "sft" in report.pages
    assert all(row["success"] for row in json.loads((tmp_path / "results.json").read_text())["suites"]["sft"])


def test_critical_stops_and_warning_is_returned(tmp_path):
    rows = [record(n) for n in range(10)] + [record(99, prompt="")] + [record(n, response="4") for n in range(20, 25)]
    report = gate(rows, tmp_path)
    assert {finding.column for finding in report.critical} == {"prompt_nonempty"}
    assert "has_think" in {finding.column for finding in report.warnings}
    with pytest.raises(BadInput) as caught:
        report.require("corpus")
    for part in ("corpus: ", f"{99:016x}", "a.jsonl#99", "1 of 16 unexpected", "expect_column_values_to_be_in_set"):
        assert part in str(caught.value)


def test_duplicates_above_the_limit_are_critical(tmp_path):
    report = gate([record(1)] * 5 + [record(2)], tmp_path, max_duplicate_fraction=0.5)
    assert [finding.column for finding in report.critical] == ["duplicate_fraction"]
    assert f"{1:016x}" in report.critical[0].examples[0]


def test_too_few_records_are_critical(tmp_path):
    assert gate([record(1)], tmp_path, min_records=2).critical[0].observed == "1"


def test_malformed_fraction_gates():
    expect = suite("ingestion", GateConfig(max_malformed_fraction=0.01))[0]
    assert (expect.severity, expect.high) == ("critical", 0.01)


def test_answer_structure():
    assert boxed(r"so \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert has_think("<think>a</think>b")
    assert not has_think("<think>a")
    assert has_answer("<think>a</think>\\boxed{3}")
    assert not has_answer("<think>a</think>\\boxed{")
    assert not has_answer("<think>a</think>  ")
