"""The expectations of every kind of data: pretrain, SFT, RL prompts, preference pairs, benchmarks, ingestion, the mix
and rollouts. What is looked at are columns of facts (components.data.statistics), one row a record.

A critical expectation stops the stage, a warning is shown. Thresholds that are not in the recipe are ours: no report
publishes its own. A recipe adds any expectation of Great Expectations to a suite by name (`corpus.gates.expectations`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from components.failures import BadInput
from components.recipe.data import Expectation, GateConfig, Severity

Kind = Literal["true", "false", "mean", "range", "rows", "total", "set", "matches", "columns", "custom"]

MIX_TOLERANCE = 0.02
MAX_REWARD_ERRORS = 0.01
DOMAINS = ("math", "code", "logic", "science", "general")

_EVERY = ("id", "source", "characters", "tokens", "has_licence", "prompt_nonempty", "duplicate", "in_other_split")
_WHOLE = ("records", "duplicate_fraction", "other_split_fraction", "language")
_PAIR = ("domain", "replies_differ", "response_nonempty", "length_ratio")
_PROMPT = ("domain", "has_reference", "boxed", "answer_parses", "has_solution", "solution_accepted")
# The columns of each suite's table, which expectations of a recipe may name.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "pretrain": (*_EVERY, *_WHOLE, "repetition"),
    "sft": (
        *_EVERY,
        *_WHOLE,
        "domain",
        "response_nonempty",
        "has_think",
        "has_answer",
        "repetition",
        "boxed",
        "answer_parses",
        "program_parses",
    ),
    "rl": (*_EVERY, *_WHOLE, *_PROMPT),
    "preference": (*_EVERY, *_WHOLE, *_PAIR),
    "preference_heldout": (*_EVERY, *_WHOLE, *_PAIR),
    "benchmark": (*_EVERY, *_WHOLE, *_PROMPT),
    "ingestion": ("id", "malformed_fraction", "has_licence", "records"),
    "mix": ("id", "split", "domain", "wanted", "share", "deviation", "epochs"),
    "rollouts": ("id", "tokens", "reward", "reward_error_rate", "truncated", "response_nonempty", "repetition"),
    "drift": ("id", "split", "measure", "distance"),
}


@dataclass(frozen=True)
class Expect:
    """One expectation: a column (or the table, when `column` is empty), what must hold, and what failing means.

    kind: true or false (every value is), mean (column mean in [low, high]), range (every value in [low, high]), rows
    (number of rows), total (a number over the whole split, the same in every row, in [low, high]), set (every value is
    one of `values`), matches (every value matches the pattern values[0]), columns (the table has at least `values`),
    custom (the expectation `name` with `kwargs`).
    mostly: share of the values that must hold; values that are None are not asked.
    """

    kind: Kind
    column: str
    severity: Severity
    meaning: str
    low: float | None = None
    high: float | None = None
    mostly: float = 1.0
    values: tuple[str, ...] = ()
    name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def suite(split: str, config: GateConfig, context_length: int | None = None) -> list[Expect]:
    """The expectations of a suite (a key of COLUMNS), those of the recipe last."""
    builders = {"ingestion": _ingestion, "mix": _mix, "rollouts": _rollouts, "drift": _drift}
    found = builders[split](config) if split in builders else _records(split, config, context_length)
    return [*found, *(_custom(added) for added in config.expectations if added.suite == split)]


def _custom(added: Expectation) -> Expect:
    meaning = added.meaning or f"{added.name} of the recipe"
    return Expect("custom", added.column, added.severity, meaning, name=added.name, kwargs=added.kwargs)


def _ingestion(config: GateConfig) -> list[Expect]:
    most = config.max_malformed_fraction
    return [
        Expect("range", "malformed_fraction", "critical", "too many malformed records", 0, most),
        Expect("true", "has_licence", "warning", "sources without a licence"),
    ]


def _mix(config: GateConfig) -> list[Expect]:
    return [Expect("range", "deviation", "critical", "the mix is not the recipe's", -MIX_TOLERANCE, MIX_TOLERANCE)]


def _rollouts(config: GateConfig) -> list[Expect]:
    return [
        Expect("rows", "", "critical", "no rollouts", low=1),
        Expect("total", "reward_error_rate", "critical", "too many rewards were not given", high=MAX_REWARD_ERRORS),
        Expect("range", "reward", "critical", "rewards outside 0 to 1", 0, 1),
        Expect("true", "response_nonempty", "warning", "empty responses", mostly=0.99),
        Expect("mean", "truncated", "warning", "most responses reach the length limit", high=0.5),
        Expect("mean", "repetition", "warning", "repetitive responses", high=0.4),
    ]


def _drift(config: GateConfig) -> list[Expect]:
    meaning = "another distribution than in the previous version"
    return [Expect("range", "distance", "warning", meaning, 0, config.max_drift)]


def _records(split: str, config: GateConfig, context_length: int | None) -> list[Expect]:
    least = 1 if split in ("benchmark", "preference_heldout") else config.min_records
    found = [
        Expect("rows", "", "critical", "too few records", low=min(least, config.sample)),
        Expect("total", "records", "critical", "too few records", low=least),
        Expect("columns", "", "critical", "facts of the schema are missing", values=_EVERY),
        Expect("matches", "id", "critical", "ids that are no content hash", values=("^[0-9a-f]{16}$",)),
        Expect("set", "domain", "critical", "unknown domains", values=DOMAINS),
        Expect("true", "prompt_nonempty", "critical", "records without a prompt or text"),
        Expect("total", "duplicate_fraction", "critical", "too many repeats", high=config.max_duplicate_fraction),
        Expect("false", "in_other_split", "warning", "questions that also stand in another split"),
        Expect("range", "tokens", "critical", "records without tokens", low=1),
        Expect("set", "language", "warning", "prose in other languages", values=config.languages, mostly=0.95),
    ]
    if context_length:
        most = {"high": context_length, "low": None}
        found += [
            Expect("range", "tokens", "warning", "records longer than the context", mostly=0.99, **most),
            Expect("range", "tokens", "critical", "most records are longer than the context", mostly=0.5, **most),
        ]
    return found + _OWN.get(split, [])


_REFERENCE = [
    Expect("true", "has_reference", "critical", "prompts whose verifier has no reference"),
    Expect("true", "answer_parses", "warning", "reference answers that do not parse", mostly=0.9),
    Expect("true", "solution_accepted", "warning", "stored solutions that fail their tests", mostly=0.9),
]
_PAIRS = [
    Expect("true", "replies_differ", "critical", "pairs whose replies are the same", mostly=0.98),
    Expect("true", "response_nonempty", "warning", "pairs with an empty chosen reply"),
    Expect("mean", "length_ratio", "warning", "the chosen reply is told by its length alone", low=0.25, high=0.75),
]
_OWN: Mapping[str, list[Expect]] = {
    "pretrain": [Expect("mean", "repetition", "warning", "repetitive text", high=0.4)],
    "sft": [
        Expect("true", "response_nonempty", "critical", "records without a response"),
        Expect("true", "has_think", "warning", "responses without one closed <think> part", mostly=0.9),
        Expect("true", "has_answer", "warning", "responses without an answer after the thinking", mostly=0.99),
        Expect("true", "answer_parses", "warning", "boxed answers that do not parse", mostly=0.9),
        Expect("true", "program_parses", "warning", "programs that do not compile", mostly=0.95),
        Expect("mean", "repetition", "warning", "repetitive responses", high=0.4),
    ],
    "rl": _REFERENCE,
    "benchmark": _REFERENCE,
    "preference": _PAIRS,
    "preference_heldout": _PAIRS,
}


def check_expectations(expectations: tuple[Expectation, ...], where: str = "corpus.gates.expectations") -> None:
    """Raises BadInput for an expectation, column or argument that does not exist, with the nearest that does.

    Imports Great Expectations (seconds), so only when a recipe adds something.
    """
    for index, added in enumerate(expectations):
        expectation(_custom(added), f"{where}.{index}")
        known = COLUMNS[added.suite]
        if added.column and added.column not in known:
            close = get_close_matches(added.column, known, n=1)
            raise BadInput(
                f"the suite {added.suite} has no column {added.column!r}",
                where=f"{where}.{index}.column",
                remedy=(f"Did you mean {close[0]!r}? " if close else "") + f"Columns: {', '.join(known)}",
            )


def expectation(expect: Expect, where: str = ""):
    """The Great Expectations object. Raises BadInput for a custom one that does not exist or has wrong arguments."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    common: dict[str, Any] = {"severity": FailureSeverity(expect.severity), "meta": {"meaning": expect.meaning}}
    column = {"column": expect.column}
    bounds = {"min_value": expect.low, "max_value": expect.high}
    if expect.kind == "custom":
        return _named(expect, common, where)
    if expect.kind == "rows":
        return gxe.ExpectTableRowCountToBeBetween(min_value=int(expect.low or 0), **common)
    if expect.kind == "columns":
        return gxe.ExpectTableColumnsToMatchSet(column_set=list(expect.values), exact_match=False, **common)
    if expect.kind == "mean":
        return gxe.ExpectColumnMeanToBeBetween(**column, **bounds, **common)
    if expect.kind == "total":
        return gxe.ExpectColumnMaxToBeBetween(**column, **bounds, **common)
    if expect.kind == "range":
        return gxe.ExpectColumnValuesToBeBetween(**column, **bounds, mostly=expect.mostly, **common)
    if expect.kind == "matches":
        return gxe.ExpectColumnValuesToMatchRegex(**column, regex=expect.values[0], mostly=expect.mostly, **common)
    wanted = list(expect.values) if expect.kind == "set" else [expect.kind == "true"]
    return gxe.ExpectColumnValuesToBeInSet(**column, value_set=wanted, mostly=expect.mostly, **common)


def _named(expect: Expect, common: dict[str, Any], where: str):
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    known = [name for name in list_registered_expectation_implementations() if not name.startswith("unexpected_rows")]
    if expect.name not in known:
        close = get_close_matches(expect.name, known, n=3, cutoff=0.5)
        raise BadInput(
            f"Great Expectations has no {expect.name!r}",
            where=f"{where}.name",
            remedy=f"Nearest: {', '.join(close)}" if close else f"There are: {', '.join(sorted(known))}",
        )
    kind = get_expectation_impl(expect.name)
    takes = set(kind.__fields__)
    column = {"column": expect.column} if expect.column else {}
    wrong = sorted({*expect.kwargs, *column} - takes)
    if wrong:
        reserved = {"id", "meta", "notes", "catch_exceptions", "rendered_content", "severity", "windows", "batch_id"}
        raise BadInput(
            f"{expect.name} takes no {', '.join(wrong)}",
            where=f"{where}.kwargs",
            remedy=f"It takes: {', '.join(sorted(takes - reserved))}",
        )
    try:
        return kind(**column, **expect.kwargs, **common)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise BadInput(f"{expect.name} cannot be made: {text}", where=f"{where}.kwargs") from None
