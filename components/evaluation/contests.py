"""From accepted programs to a place among people: contest score, rank in the real standings, rating, percentile.

As CodeElo does (arXiv 2501.01257): at most eight submissions of a problem, the first accepted one counts; its points
less 50 for every wrong one before it (ICPC-like contests: one point, and ten minutes of penalty each). The rank in the
official standings (how many are at least as good) is turned into the rating whose expected rank it is, by bisection,

    expected rank(r) = 1 + sum over participants i of 1 / (1 + 10^((r - rating_i) / 400)),

and ratings are averaged over contests. Time is not counted: a model has none that compares with a person's.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from components.evaluation.statistics import z_value
from components.evaluation.types import Answer, Metric
from components.failures import BadInput

SUBMISSIONS = 8
WRONG_POINTS = 50.0
WRONG_MINUTES = 10.0


@dataclass(frozen=True)
class Contest:
    """problems: letter -> points. standings: (rating before the contest, points, penalty) of every participant."""

    number: str
    kind: Literal["points", "icpc"]
    problems: Mapping[str, float]
    standings: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Result:
    """What a model did in one contest. solved: letter -> wrong submissions before the accepted one."""

    contest: Contest
    solved: Mapping[str, int]
    points: float
    penalty: float
    rank: int
    rating: float


def expected_rank(rating: float, others: Sequence[float]) -> float:
    return 1 + sum(1 / (1 + 10 ** ((rating - other) / 400)) for other in others)


def rating_of_rank(rank: int, others: Sequence[float]) -> int:
    """The largest whole rating below max(others) + 100 whose expected rank is at least `rank`; 0 when none is."""
    ratings = range(int(max(others)) + 100)
    return max(0, bisect_right(ratings, -rank, key=lambda rating: -expected_rank(rating, others)) - 1)


def contest_result(contest: Contest, tries: Mapping[str, Sequence[bool]]) -> Result:
    """tries: letter -> accepted or not, in the order of submission; what follows the first accepted one is ignored."""
    solved = {
        letter: next(at for at, accepted in enumerate(found) if accepted)
        for letter, found in ((letter, list(tries.get(letter, ()))[:SUBMISSIONS]) for letter in contest.problems)
        if any(found)
    }
    if contest.kind == "icpc":
        points = float(len(solved))
        penalty = WRONG_MINUTES * sum(solved.values())
    else:
        points = sum(max(0.0, contest.problems[letter] - WRONG_POINTS * wrong) for letter, wrong in solved.items())
        penalty = 0.0
    # Ties count as ahead, and the first place is 0, as in CodeElo's calc_rating.py: scores are compared with its own.
    rank = sum((-p, q) <= (-points, penalty) for _, p, q in contest.standings)
    rating = rating_of_rank(rank, [person for person, _, _ in contest.standings])
    return Result(contest, solved, points, penalty, rank, rating)


def percentile(rating: float, histogram: Mapping[int, int]) -> float:
    """Share of rated people below, in percent."""
    total = sum(histogram.values())
    return 100 * sum(count for value, count in histogram.items() if value < rating) / total


def read_standings(path: Path) -> dict[str, Contest]:
    """JSON lines {"contest": 1971, "kind": "points" or "icpc"?, "problems": {"A": 500}, "standings": [{"rating",
    "points", "penalty"?}]}; what Codeforces answers to contest.standings and contest.ratingChanges holds all of it."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            people = tuple(
                (float(p["rating"]), float(p["points"]), float(p.get("penalty", 0))) for p in row["standings"]
            )
            kind = row.get("kind", "points")
            if kind not in ("points", "icpc") or not people or not row["problems"]:
                raise ValueError("kind is points or icpc, and problems and standings are not empty")
            contest = Contest(str(row["contest"]), kind, {k: float(v) for k, v in row["problems"].items()}, people)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"no contest: {type(error).__name__}: {error}", where=f"{path}:{number}") from error
        found[contest.number] = contest
    return found


def read_histogram(path: Path) -> dict[int, int]:
    """JSON lines {"rating", "count"}."""
    found: dict[int, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            found[int(row["rating"])] = found.get(int(row["rating"]), 0) + int(row["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"rating and count are expected: {error}", where=f"{path}:{number}") from error
    return found


def rating_metrics(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """rating (normal interval over contests), percentile, contests. Empty without the standings."""
    results = contest_results(answers, files)
    if not results:
        return {}
    return summary(results, confidence, read_histogram(files["ratings"]) if "ratings" in files else None)


def contest_results(answers: Sequence[Answer], files: Mapping[str, Path]) -> list[Result]:
    """What answers came to in each contest of the standings; none without them.

    The family of an answer is its problem, such as 1971A; samples are submissions in their order.
    """
    if "standings" not in files:
        return []
    tries: dict[str, dict[str, dict[int, bool]]] = defaultdict(lambda: defaultdict(dict))
    for answer in answers:
        number, letter = re.fullmatch(r"(\d+)([A-Z]\d?)", answer.family).groups()  # type: ignore[union-attr]
        if answer.value is not None:
            tries[number][letter][answer.sample] = answer.value >= 1
    contests = read_standings(files["standings"])
    return [
        contest_result(contest, {k: [v[at] for at in sorted(v)] for k, v in tries[number].items()})
        for number, contest in contests.items()
        if number in tries
    ]


def summary(results: Sequence[Result], confidence: float, histogram: Mapping[int, int] | None) -> dict[str, Metric]:
    ratings = [result.rating for result in results]
    mean = fmean(ratings)
    low = high = None
    if len(ratings) > 1:
        deviation = (sum((rating - mean) ** 2 for rating in ratings) / (len(ratings) - 1)) ** 0.5
        half = z_value(confidence) * deviation / len(ratings) ** 0.5
        low, high = mean - half, mean + half
    found: dict[str, Metric] = {
        "rating": Metric(mean, low, high, "rating"),
        "contests": Metric(float(len(results)), unit="count"),
    }
    if histogram:
        bounds = [None if bound is None else percentile(bound, histogram) for bound in (low, high)]
        found["percentile"] = Metric(percentile(mean, histogram), *bounds, unit="percent")
    return found


def scoreboard(answers: Sequence[Answer], files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """One row per contest: problems solved (with the wrong submissions before), points, rank and rating there."""
    return [
        {
            "contest": result.contest.number,
            "solved": f"{len(result.solved)} of {len(result.contest.problems)}",
            "problems": " ".join(
                f"{letter}{f' (-{wrong})' if wrong else ''}" for letter, wrong in sorted(result.solved.items())
            ),
            "points": result.points,
            "penalty": result.penalty,
            "rank": result.rank,
            "of": len(result.contest.standings),
            "rating": round(result.rating, 1),
        }
        for result in contest_results(answers, files)
    ]
