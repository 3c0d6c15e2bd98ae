"""Real Great Expectations runs: severity decides, the message can be acted on, Data Docs are there."""

import json
import re

import pytest

from components.data.corpus import CorpusWriter
from components.data.gate_tables import place_table, rollout_table
from components.data.gates import run_gates
from components.data.schema import (
    BenchmarkItem,
    Message,
    PreferenceRecord,
    PretrainRecord,
    RlRecord,
    SftRecord,
    Verifier,
)
from components.data.statistics import boxed, columns, has_answer, has_think, measure
from components.data.suites import COLUMNS, check_expectations, suite
from components.failures import BadInput
from components.recipe.data import Expectation, GateConfig


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


def test_equal_data_makes_equal_pages(tmp_path):
    for name in ("first", "second"):
        gate([record(n) for n in range(9)] + [record(9, response="4")], tmp_path / name)
    found = {page.relative_to(tmp_path / "first") for page in (tmp_path / "first").rglob("*") if page.is_file()}
    assert len(found) > 5
    for page in found:
        assert (tmp_path / "first" / page).read_bytes() == (tmp_path / "second" / page).read_bytes(), page


def test_critical_stops_and_warning_is_returned(tmp_path):
    rows = [record(n) for n in range(10)] + [record(99, prompt="")] + [record(n, response="4") for n in range(20, 25)]
    report = gate(rows, tmp_path)
    assert {finding.column for finding in report.critical} == {"prompt_nonempty"}
    assert "has_think" in {finding.column for finding in report.warnings}
    with pytest.raises(BadInput) as caught:
        report.require("corpus")
    shown = (tmp_path / "index.html").read_text()
    assert "records without a prompt or text" in shown
    assert 'href="sft.html"' in shown
    assert report.validations["sft"].is_file()
    for page in [tmp_path / "index.html", *(tmp_path / "docs").rglob("*.html")]:
        assert not re.search(r"((src|href)=|url\()['\"]?https?://", page.read_text()), page
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


def test_a_recipe_adds_expectations_without_code(tmp_path):
    longest = Expectation(
        suite="sft",
        name="expect_column_values_to_be_between",
        column="tokens",
        kwargs={"max_value": 30, "mostly": 0.9},
        severity="critical",
        meaning="long records",
    )
    rows = [record(n) for n in range(9)] + [record(10 + n, prompt="How much? " * 20) for n in range(3)]
    report = gate(rows, tmp_path, expectations=(longest,))
    assert [str(finding).partition(" (")[0] for finding in report.critical] == ["sft: long records"]
    other = longest.model_copy(update={"suite": "rl"})
    assert suite("sft", GateConfig(expectations=(other,))) == suite("sft", GateConfig())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "expect_column_values_to_be_betwen"}, r"\.0\.name.*Nearest: expect_column_values_to_be_between"),
        ({"column": "token"}, r"\.0\.column: the suite sft has no column 'token'.*Did you mean 'tokens'"),
        ({"kwargs": {"maximum": 3}}, r"takes no maximum.*max_value"),
        ({"kwargs": {"max_value": [3]}}, r"cannot be made.*max_value"),
        ({"name": "expect_table_row_count_to_be_between"}, r"takes no column"),
    ],
)
def test_a_wrong_expectation_is_told_before_anything_starts(change, complaint):
    right = Expectation(
        suite="sft", name="expect_column_values_to_be_between", column="tokens", kwargs={"max_value": 3}
    )
    check_expectations((right,))
    with pytest.raises(BadInput, match=complaint):
        check_expectations((right.model_copy(update=change),))


class Probes:
    """The verifiers' part, told apart by what stands in the record."""

    def answers_parse(self, answers):
        return [answer.isdigit() for answer in answers]

    def solutions_accepted(self, records):
        return [record.solution == "right" for record in records]


def test_tables_hold_the_columns_that_suites_name(tmp_path):
    user = (Message(role="user", content="How much is it? " * 3),)
    tests = {"tests": [{"stdin": "", "stdout": "1"}]}
    common = {"source": "s", "family": "f", "prompt": user}
    verifiers = [Verifier(kind="math", reference={"answer": answer}) for answer in ("4", "?")]
    problems = [
        {**common, "domain": "math", "verifier": verifiers[0]},
        {**common, "domain": "math", "verifier": verifiers[1]},
        {**common, "domain": "code", "verifier": Verifier(kind="code", reference=tests), "solution": "right"},
        {**common, "domain": "code", "verifier": Verifier(kind="code", reference=tests), "solution": "wrong"},
    ]
    records = {
        "pretrain": [PretrainRecord(id="0" * 16, source="s", text="The quick brown fox jumps over the lazy dog. " * 4)],
        "sft": [record(1), record(2, "<think>so</think>```python\nprint(\n```").model_copy(update={"domain": "code"})],
        "rl": [RlRecord(id=f"{n:016x}", **problem) for n, problem in enumerate(problems)],
        "preference": [
            PreferenceRecord(id=f"{n:016x}", source="s", prompt=user, chosen="yes", rejected="no") for n in range(2)
        ],
        "benchmark:b": [BenchmarkItem(id="0" * 16, benchmark="b", **problems[0])],
    }
    with CorpusWriter(tmp_path, tmp_path / "scratch", 100) as writer:
        for place, rows in records.items():
            for row in rows:
                writer.add(place, row, measure(row, len))
        gathered = writer.finish()
    found = {place: place_table(place, each, GateConfig(), tmp_path, Probes()) for place, each in gathered.items()}
    for place, table in found.items():
        assert set(table) == set(COLUMNS[place.partition(":")[0]]), place
    assert found["pretrain"]["language"] == ["en"]
    assert found["rl"]["answer_parses"] == [True, False, None, None]
    assert found["rl"]["solution_accepted"] == [None, None, True, False]
    assert found["sft"]["program_parses"] == [None, False]
    report = run_gates({"rl": (suite("rl", GateConfig()), found["rl"])}, tmp_path / "gates")
    assert {"answer_parses", "solution_accepted"} <= {finding.column for finding in report.warnings}


def test_rollouts_whose_rewards_fail_are_critical(tmp_path):
    def rollout(n, value):
        return {
            "prompt_id": n,
            "response": "so it is",
            "tokens": 3,
            "finish": "stop",
            "reward": {"value": value, "verdict": "error" if value is None else "wrong"},
        }

    good = rollout_table([rollout(n, float(n % 2)) for n in range(50)], 0.0, lambda text: 0.0)
    bad = rollout_table([rollout(n, None if n < 5 else 1.0) for n in range(50)], 0.1, lambda text: 0.0)
    assert set(good) == set(COLUMNS["rollouts"])
    report = run_gates(
        {"good": (suite("rollouts", GateConfig()), good), "bad": (suite("rollouts", GateConfig()), bad)}, tmp_path
    )
    assert [(finding.suite, finding.column) for finding in report.findings] == [("bad", "reward_error_rate")]
    assert report.critical
