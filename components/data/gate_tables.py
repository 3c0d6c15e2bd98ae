"""The tables that the suites look at, from what a CorpusWriter gathered, and what needs more than a record's own text:
its language, whether answers parse, whether accepted solutions pass their tests, and how far a corpus is from its
previous version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from components.data.corpus import BENCHMARK, Gathered
from components.data.jsonl import read_records
from components.data.schema import BenchmarkItem, RlRecord
from components.data.sources import SourceEntry
from components.recipe.data import GateConfig

# Telling a language costs a millisecond, parsing an answer up to two: so many records of a place are asked.
LANGUAGE_RECORDS = 1000
ANSWER_RECORDS = 200
# An unusually long answer is an expression of its own kind; the check costs too much to be asked of it.
LONGEST_ANSWER = 200


class Probes(Protocol):
    """What the gates ask of the verifiers (components.rewards.probes): the house's data floor does not know them."""

    def answers_parse(self, answers: Sequence[str]) -> list[bool]: ...

    def solutions_accepted(self, records: Sequence[RlRecord]) -> list[bool]: ...


def language_of(texts: Sequence[str]) -> list[str | None]:
    """ISO 639-1 code of each prose text; None for an empty one."""
    if not any(texts):
        return [None] * len(texts)
    import py3langid

    return [py3langid.classify(text)[0] if text else None for text in texts]


def place_table(
    place: str, gathered: Gathered, config: GateConfig, directory: Path, probes: Probes | None
) -> dict[str, list[Any]]:
    """Columns of one split or benchmark; {} for an empty one. directory: the corpus, where solutions are read again."""
    rows, totals = gathered.rows, gathered.totals
    if not rows:
        return {}
    found = {name: [row[name] for row in rows] for name in rows[0] if name != "prose"}
    whole = {
        "records": totals.records,
        "duplicate_fraction": totals.duplicates / totals.records,
        "other_split_fraction": totals.elsewhere / totals.records,
    }
    found |= {name: [value] * len(rows) for name, value in whole.items()}
    texts = _chosen([row["prose"] for row in rows], LANGUAGE_RECORDS, bool)
    found["language"] = _spread(len(rows), texts, language_of)
    if "boxed" in found and probes is not None:
        answers = _chosen(found["boxed"], ANSWER_RECORDS, lambda text: bool(text) and len(text) <= LONGEST_ANSWER)
        found["answer_parses"] = _spread(len(rows), answers, probes.answers_parse)
    if "has_solution" in found and probes is not None:
        solved = _chosen(found["id"], len(rows), lambda _: True)
        wanted = [(index, id) for index, id in solved if found["has_solution"][index]][: config.programs]
        found["solution_accepted"] = _accepted(len(rows), place, dict(wanted), directory, probes)
    return found


def _chosen(values: Sequence[Any], most: int, usable: Callable[[Any], bool]) -> list[tuple[int, Any]]:
    """At most `most` usable values with their index, evenly over all."""
    found = [(index, value) for index, value in enumerate(values) if usable(value)]
    return found[:: max(1, -(-len(found) // most))] if most else []


def _spread(length: int, chosen: list[tuple[int, Any]], ask: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """The answers in their rows, None elsewhere."""
    answers: list[Any] = [None] * length
    if chosen:
        for (index, _), answer in zip(chosen, ask([value for _, value in chosen]), strict=True):
            answers[index] = answer
    return answers


def _accepted(length: int, place: str, wanted: Mapping[int, str], directory: Path, probes: Probes) -> list[Any]:
    if not wanted:
        return [None] * length
    ids = set(wanted.values())
    if place.startswith(BENCHMARK):
        path, kind = directory / "benchmarks" / f"{place.removeprefix(BENCHMARK)}.jsonl", BenchmarkItem
    else:
        path, kind = directory / "data" / f"{place}.jsonl", RlRecord
    records = {record.id: record for record in read_records(path, kind) if record.id in ids}
    chosen = [(index, records[id]) for index, id in wanted.items()]
    return _spread(length, chosen, probes.solutions_accepted)


def ingestion_table(sources: Sequence[SourceEntry]) -> dict[str, list[Any]]:
    return {
        "id": [entry.uri for entry in sources],
        "records": [entry.records for entry in sources],
        "malformed_fraction": [
            entry.malformed / max(1, entry.malformed + entry.records + sum(entry.left_out.values()))
            for entry in sources
        ],
        "has_licence": [bool(entry.licence) for entry in sources],
    }


def drift_table(now: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Total variation distance (0: the same, 1: nothing in common) of each split's distributions to those before.

    now, before: content of statistics.json. A split that is new or gone has distance 1.
    """
    rows = []
    for place in sorted({*now, *before}):
        for measure in ("log2_tokens", "domains"):
            sides = [statistics.get(place, {}).get(measure, {}) for statistics in (now, before)]
            if any(sides):
                rows.append((f"{place}/{measure}", place, measure, total_variation(*sides)))
    names = ("id", "split", "measure", "distance")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)} if rows else {}


def total_variation(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    """Half the sum of the differences of two distributions given as counts; 1 when one of them is empty."""
    sums = sum(left.values()), sum(right.values())
    if not all(sums):
        return 1.0
    return sum(abs(left.get(key, 0) / sums[0] - right.get(key, 0) / sums[1]) for key in {*left, *right}) / 2


def rollout_table(
    rollouts: Sequence[Mapping[str, Any]], error_rate: float, repetition: Callable[[str], float]
) -> dict[str, list[Any]]:
    """Columns of rollouts as the RL stages and the pass-rate stage write them.

    Args:
        rollouts: the evidence that was kept, {prompt_id, response, tokens, finish, reward}.
        error_rate: share of ALL rewards that could not be given, kept as evidence or not.
    """
    rewards = [rollout["reward"] for rollout in rollouts]
    # A reward model's score is any number; the rules give 0 to 1.
    by_rule = [reward["value"] if "reward_model" not in reward.get("evidence", {}) else None for reward in rewards]
    return (
        {
            "id": [f"{rollout.get('step', 0)}/{rollout['prompt_id']}" for rollout in rollouts],
            "tokens": [rollout["tokens"] for rollout in rollouts],
            "reward": by_rule,
            "reward_error_rate": [error_rate] * len(rollouts),
            "truncated": [rollout["finish"] == "length" for rollout in rollouts],
            "response_nonempty": [bool(rollout["response"].strip()) for rollout in rollouts],
            "repetition": [repetition(rollout["response"]) for rollout in rollouts],
        }
        if rollouts
        else {}
    )
