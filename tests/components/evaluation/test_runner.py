"""Known-answer models score exactly, errors are never wrong answers, a killed evaluation draws nothing twice."""

from __future__ import annotations

import json

import pytest

from components.artifacts.local import LocalContext
from components.evaluation.plot import plot_stages
from components.evaluation.report import write_report
from components.evaluation.runner import answer_seed, evaluate
from components.evaluation.scores import load_evaluation
from components.evaluation.table import change, markdown_table, rich_table, stage_rows
from components.failures import BadInput, InfrastructureError
from components.recipe.evaluation import EvaluationConfig
from components.recipe.execution import ExecutionConfig
from tests.components.evaluation.fakes import CODEC, ExactScorer, KnownEngines, item

CONFIG = EvaluationConfig(samples=4, max_new_tokens=16)
ITEMS = {
    "sums": [item(number) for number in range(10)],
    "codes": [item(number, "codes", "code") for number in range(6)],
}


def sample_of(request_id: str) -> int:
    return int(request_id.rsplit("|", 1)[1])


def run(tmp_path, engines, scorer=None, **options):
    execution = ExecutionConfig(engines=1, max_num_seqs=4)  # waves of 16 answers
    context = LocalContext(tmp_path, "evaluate", seed=5, execution=execution, quiet=True)
    return evaluate(engines, CODEC, ITEMS, CONFIG, scorer or ExactScorer(), context, **options)


@pytest.mark.parametrize(
    ("right", "avg", "pass_at"),
    [
        (lambda _: True, 1.0, {1: 1.0, 2: 1.0, 4: 1.0}),
        (lambda _: False, 0.0, {1: 0.0, 2: 0.0, 4: 0.0}),
        (lambda request: sample_of(request) % 2 == 0, 0.5, {1: 0.5, 2: 5 / 6, 4: 1.0}),
    ],
)
def test_known_answer_models_score_exactly(tmp_path, right, avg, pass_at):
    evaluation = run(tmp_path, KnownEngines(right))
    for score in (evaluation.overall, *evaluation.benchmarks.values(), *evaluation.domains.values()):
        assert score.avg.value == avg
        assert score.avg.low <= avg <= score.avg.high
        assert score.avg.low < score.avg.high
        assert score.pass_at == pytest.approx(pass_at)
        assert (
            score.correct + score.wrong + score.scored + score.truncated + score.no_answer + score.errors
            == score.answers
        )
    assert (evaluation.overall.items, evaluation.overall.answers) == (16, 64)
    assert set(evaluation.domains) == {"math", "code"}


def test_truncated_answers_and_errors_have_columns_of_their_own(tmp_path):
    engines = KnownEngines(lambda _: True, cut=lambda request: request.startswith("codes|codes-0|"))
    scorer = ExactScorer(broken=lambda request: request == "sums|sums-1|0")
    evaluation = run(tmp_path, engines, scorer)
    sums, codes = evaluation.benchmarks["sums"], evaluation.benchmarks["codes"]
    assert (sums.avg.value, sums.errors, sums.wrong) == (1.0, 1, 0)
    assert (codes.truncated, codes.no_answer, codes.correct) == (4, 0, 20)
    assert codes.avg.value == pytest.approx(5 / 6)


def test_a_verifier_that_recovers_leaves_no_error(tmp_path):
    evaluation = run(tmp_path, KnownEngines(lambda _: True), ExactScorer(lambda _: True, heals=True))
    assert (evaluation.overall.avg.value, evaluation.overall.errors) == (1.0, 0)


def test_too_many_errors_fail_as_infrastructure(tmp_path):
    scorer = ExactScorer(broken=lambda request: request.startswith("sums|sums-1|"))
    with pytest.raises(InfrastructureError, match=r"4 of 64 answers could not be verified.*sums-1.*verifier died"):
        run(tmp_path, KnownEngines(lambda _: True), scorer)


def test_resumes_without_sampling_finished_answers_again(tmp_path):
    whole = run(tmp_path / "whole", KnownEngines(lambda request: hash(request) % 3 == 0))
    killed = KnownEngines(lambda request: hash(request) % 3 == 0, die_after_calls=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", killed)
    again = KnownEngines(lambda request: hash(request) % 3 == 0)
    resumed = run(tmp_path / "killed", again)
    drawn = [request.request_id for engine in (killed, again) for call in engine.calls for request in call]
    assert len(drawn) == len(set(drawn)) == 64
    assert len(killed.calls) == 2
    assert len(again.calls) == 2
    assert resumed.answers == whole.answers
    assert resumed.scores() == whole.scores()


def test_seeds_are_of_the_answer_not_of_the_order(tmp_path):
    engines = KnownEngines(lambda _: True)
    run(tmp_path, engines)
    seeds = {request.request_id: request.seed for call in engines.calls for request in call}
    assert len(set(seeds.values())) == 64
    assert seeds["sums|sums-3|2"] == answer_seed(5, "sums", "sums-3", 2)
    assert all(0 <= seed < 2**31 for seed in seeds.values())


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ({}, "no benchmark"),
        ({"sums": []}, "sums: the benchmark has no items"),
        ({"sums": [item(1), item(1)]}, "item sums-1: two items have the same id"),
        ({"sums": [item(10**250)]}, "item sums-1.*exceed the context length of 256"),
    ],
)
def test_bad_benchmarks_are_named(tmp_path, items, problem):
    with pytest.raises(BadInput, match=problem):
        evaluate(
            KnownEngines(lambda _: True), CODEC, items, CONFIG, ExactScorer(), LocalContext(tmp_path, "e", quiet=True)
        )


def test_files_tables_picture_and_page(tmp_path):
    before = run(tmp_path / "a", KnownEngines(lambda request: sample_of(request) == 0))
    after = run(tmp_path / "b", KnownEngines(lambda request: sample_of(request) < 3))
    after.write(tmp_path)
    assert load_evaluation(tmp_path) == after
    assert json.loads((tmp_path / "scores.json").read_text())["settings"]["max_new_tokens"] == 16
    changed = change(before, after)["sums"]
    assert changed["difference"] == pytest.approx(0.5)
    assert (changed["gained"], changed["verdict"]) == (10, "better")
    stages = {"sft": before, "rlvr-1": after}
    assert [row["stage"] for row in stage_rows(stages)] == ["sft", "rlvr-1"]
    assert "| rlvr-1 | 75.0 [" in markdown_table(stages)
    assert "+50.0" in markdown_table(stages)
    assert rich_table(stages).row_count == 2
    assert plot_stages(stages, tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")


def test_page_shows_responses_as_text(tmp_path):
    evaluation = run(tmp_path, KnownEngines(lambda _: True))
    object.__setattr__(evaluation.answers[0], "response", "</script><script>alert(1)</script>")
    page = write_report(evaluation, tmp_path / "report.html", "evaluate-sft").read_text()
    assert "<script>alert" not in page
    embedded = page.split('type="application/json">')[1].split("</script>")[0]
    assert json.loads(embedded)[0]["answers"][0]["text"] == "</script><script>alert(1)</script>"
