"""Comparing two evaluations, the page of it, and choosing a checkpoint with few answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.evaluation.compare import compared
from components.evaluation.compare_page import write_comparison
from components.evaluation.scores import summarise
from components.evaluation.select import select_best
from components.evaluation.types import Evaluation
from components.failures import BadInput
from tests.components.evaluation.answers import answer


def evaluation(right, items: int = 60, **settings: object) -> Evaluation:
    answers = [answer("sums", str(n), k, float(right(n, k))) for n in range(items) for k in range(2)]
    return summarise(answers, {"confidence": 0.95, "temperature": 1.0, **settings}, 0.95)


def test_a_loss_is_told_with_its_items(tmp_path: Path) -> None:
    before, after = evaluation(lambda n, k: n < 50), evaluation(lambda n, k: n < 30, model="other")
    found = write_comparison({"released": before, "candidate": after}, tmp_path / "c.html", "Nightly")
    assert found.worse == ["overall", "sums"]
    assert found.table()[0][:2] == ["overall", "-33.3"]
    assert (found.rows["sums"].gained, found.rows["sums"].lost) == (0, 20)
    page = (tmp_path / "c.html").read_text()
    assert "candidate against released" in page
    assert '"outcome": "wrong"' in page
    assert found.means["sums"] == (50 / 60, 30 / 60)
    assert page.count('"item"') == 20
    assert "data:image/png;base64," in page
    assert compared(before, before).worse == []


def test_many_benchmarks_are_no_reason_for_an_alarm() -> None:
    """Nothing changed but the draw: of 80 nights with ten benchmarks about one in twenty fails, not one in three."""
    alarms = 0
    for night in range(80):
        random.seed(night)
        answers = [
            [
                answer(f"b{number}", f"{number}/{n}", 0, float(random.random() < 0.5))
                for number in range(10)
                for n in range(40)
            ]
            for _ in range(2)
        ]
        before, after = (summarise(one, {"confidence": 0.95}, 0.95) for one in answers)
        alarms += bool(compared(before, after).worse)
    assert alarms <= 8


def test_two_sets_of_items_are_named() -> None:
    one = evaluation(lambda n, k: True)
    other = summarise([answer("codes", "1", k, 1.0) for k in range(2)], one.settings, 0.95)
    with pytest.raises(BadInput, match=r"no item in common: released answered sums; candidate answered codes"):
        compared(one, other, ("released", "candidate"))


def test_other_settings_are_another_score() -> None:
    with pytest.raises(BadInput, match=r"different settings \(temperature: 1.0 and 0.6\)"):
        compared(evaluation(lambda n, k: True), evaluation(lambda n, k: True, temperature=0.6))


def drawn(chances: dict[str, float], seed: int):
    def score(name: str, items) -> dict[str, float]:
        return {item: float(random.Random(f"{seed}{name}{item}").random() < chances[name]) for item in items}

    return score


def test_the_clearly_best_is_found_with_a_fraction_of_the_answers() -> None:
    chances = {"100": 0.3, "200": 0.75, "300": 0.4, "400": 0.35}
    items = [str(n) for n in range(400)]
    found = select_best(list(chances), items, drawn(chances, 0), batch=40)
    assert found.best == "200"
    assert found.asked < 0.5 * found.all
    assert "behind after" in found.reason


def test_errors_of_selection_stay_below_alpha() -> None:
    """A checkpoint that is better by 10 points is thrown out early in at most alpha of the runs."""
    chances, wrong = {"a": 0.5, "b": 0.6}, 0
    items = [str(n) for n in range(200)]
    for seed in range(100):
        found = select_best(["a", "b"], items, drawn(chances, seed), batch=20)
        wrong += found.best == "a" and "behind after" in found.reason
    assert wrong <= 5


def test_equals_are_told_as_such() -> None:
    items = [str(n) for n in range(50)]
    found = select_best(["a", "b"], items, lambda name, part: dict.fromkeys(part, 0.5), batch=10)
    assert "cannot tell apart" in found.reason
    assert found.asked == found.all == 100


def test_inspect_reads_our_log(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    from components.evaluation.inspect_log import write_inspect_logs

    whole = evaluation(lambda n, k: n % 2 == 0, items=6)
    (path,) = write_inspect_logs(whole, tmp_path, "ring-nano")
    log = read_eval_log(str(path))
    assert log.results.scores[0].metrics["avg@2"].value == whole.overall.avg.value
    assert len(log.samples) == 12
    assert {sample.scores["ringflow"].value for sample in log.samples} == {"C", "I"}
