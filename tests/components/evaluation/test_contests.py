"""Contest score, rank and rating against the published rule on worked contests."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path

import pytest

from components.evaluation.contests import (
    Contest,
    contest_result,
    expected_rank,
    percentile,
    rating_metrics,
    rating_of_rank,
    read_histogram,
    read_standings,
)
from components.failures import BadInput
from tests.components.evaluation.answers import answer

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"
PEOPLE = tuple((rating, points, 0.0) for rating, points in zip(range(800, 2400, 100), range(0, 3200, 200), strict=True))
CONTEST = Contest("1971", "points", {"A": 500, "B": 1000, "C": 1500}, PEOPLE)


def reference_rating(rank: int, ratings: list[int]) -> int:
    """CodeElo's loop, as its paper states it: halve [0, max + 100] until one whole rating is left."""
    low, high = 0, max(ratings) + 100
    while high - low > 1:
        middle = (low + high) // 2
        if expected_rank(middle, ratings) < rank:
            high = middle
        else:
            low = middle
    return low


@pytest.mark.parametrize("rank", range(0, 20))
def test_rating_is_the_bisection_of_the_paper(rank: int) -> None:
    ratings = [rating for rating, _, _ in PEOPLE]
    assert rating_of_rank(rank, ratings) == reference_rating(rank, ratings)


def test_expected_rank_of_an_equal() -> None:
    assert expected_rank(1500, [1500]) == 1.5
    assert expected_rank(1900, [1500]) == pytest.approx(1 + 1 / 11)


def test_points_lose_fifty_for_every_wrong_submission_before_the_right_one() -> None:
    result = contest_result(CONTEST, {"A": [False, True, False], "B": [True], "C": [False] * 8})
    assert (result.points, result.solved) == (450 + 1000, {"A": 1, "B": 0})
    assert result.rank == sum(points >= 1450 for _, points, _ in PEOPLE)
    assert contest_result(CONTEST, {"A": [False] * 8 + [True]}).points == 0, "a ninth submission does not count"
    assert contest_result(CONTEST, {"A": [False] * 7 + [True]}).points == 150


def test_icpc_counts_problems_and_penalty() -> None:
    people = ((1500.0, 2.0, 30.0), (1600.0, 2.0, 5.0), (1700.0, 3.0, 0.0))
    contest = Contest("9", "icpc", {"A": 1, "B": 1, "C": 1}, people)
    result = contest_result(contest, {"A": [False, True], "B": [True]})
    assert (result.points, result.penalty, result.rank) == (2.0, 10.0, 2)


def test_rating_of_answers_with_the_standings_and_the_histogram(tmp_path: Path) -> None:
    standings = tmp_path / "standings.jsonl"
    rows = [{"rating": r, "points": p} for r, p, _ in PEOPLE]
    standings.write_text(json.dumps({"contest": 1971, "problems": CONTEST.problems, "standings": rows}) + "\n")
    ratings = tmp_path / "ratings.jsonl"
    ratings.write_text('{"rating": 1000, "count": 3}\n{"rating": 3000, "count": 1}\n')
    answers = [answer("codeforces", "a", sample, float(sample == 1), family="1971A") for sample in range(8)]
    found = rating_metrics(answers, 0.95, {"standings": standings, "ratings": ratings})
    expected = contest_result(CONTEST, {"A": [False, True]})
    assert found["rating"].value == expected.rating
    assert (found["contests"].value, found["percentile"].value) == (1, 75.0)
    assert rating_metrics(answers, 0.95, {}) == {}
    standings.write_text('{"contest": 1}\n')
    with pytest.raises(BadInput, match=r"standings.jsonl:1"):
        read_standings(standings)


def test_percentile_of_a_real_histogram_is_the_share_below() -> None:
    path = DATA / "codeforces_ratings_2024.jsonl"
    if not path.exists():
        pytest.skip("shared/data is absent")
    histogram = read_histogram(path)
    everyone = sorted(rating for rating, count in histogram.items() for _ in range(count))
    for rating in (800, 1500, 2088, 2209):
        assert percentile(rating, histogram) == pytest.approx(100 * bisect_left(everyone, rating) / len(everyone))
    assert 96 < percentile(2088, histogram) < 98  # the report gives 97.85 for 2088, against another year's people
