"""Verifiable instructions: each constraint is a small pure predicate on the text after the reasoning.

Names and arguments are those of IFEval (arXiv 2311.07911) and IFBench (arXiv 2507.02833), so their prompts can be used
as they are; the `ringflow:` rows are ours. reference: {"constraints": [{"id": str, "arguments": {...}}], "mode":
"strict" or "loose"?}. All must hold. An unknown id is bad input, never a failed constraint.

Loose, as IFEval defines it: a constraint holds when it holds for the text or for one of its variants without the first
line, the last line, both, or asterisks, so that a greeting or markup around the answer costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Literal

from components.failures import BadInput

Constraint = Callable[..., bool]
Mode = Literal["strict", "loose"]

CONSTRAINTS: dict[str, Constraint] = {}

# Of IFBench's 58 types these need a trained tagger or a pronouncing dictionary: refused, not guessed.
UNSUPPORTED: Mapping[str, str] = {
    "words:start_verb": "it needs a part-of-speech tagger",
    "words:odd_even_syllables": "it needs a pronouncing dictionary",
}


def constraint(name: str) -> Callable[[Constraint], Constraint]:
    def add(check: Constraint) -> Constraint:
        CONSTRAINTS[name] = check
        return check

    return add


def compare(count: int, relation: str, bound: float) -> bool:
    """Whether `count` stands in `relation` to `bound`. Raises ValueError for an unknown relation."""
    if relation not in ("at least", "less than", "at most", "exactly"):
        raise ValueError(f"unknown relation {relation!r}")
    return {
        "at least": count >= bound,
        "less than": count < bound,
        "at most": count <= bound,
        "exactly": count == bound,
    }[relation]


def failed_constraints(text: str, reference: Mapping[str, Any], mode: Mode = "strict") -> list[str]:
    """Ids of the constraints that the text breaks.

    Args:
        mode: that of the reference, or of the recipe where it names none.
    Raises:
        BadInput: no constraints, an unknown id or mode, or arguments it does not take.
    """
    constraints = reference.get("constraints") or ()
    if not constraints:
        raise BadInput("no constraints", where="verifier.reference.constraints")
    if mode not in ("strict", "loose"):
        raise BadInput(f"unknown mode {mode!r}", where="verifier.reference.mode", remedy="Known: strict, loose")
    texts = [text] if mode == "strict" else loose_variants(text)
    return [
        row["id"]
        for position, row in enumerate(constraints)
        if not _holds(texts, row, f"verifier.reference.constraints[{position}]")
    ]


def loose_variants(text: str) -> list[str]:
    """The text and its seven variants that a loose check accepts instead."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [variant.replace("*", "") for variant in cut]


def _holds(texts: list[str], row: Mapping[str, Any], where: str) -> bool:
    name = row.get("id")
    check = _find(name, where)
    arguments = {key: value for key, value in (row.get("arguments") or {}).items() if value is not None}
    try:
        signature(check).bind("", **arguments)
    except TypeError as error:
        raise BadInput(f"{name} does not take {arguments}: {error}", where=where) from error
    try:
        return any(text.strip() and check(text, **arguments) for text in texts)
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput(f"{name} does not take {arguments}: {error}", where=where) from error


def _find(name: Any, where: str) -> Constraint:
    from components.rewards import ifbench, ifbench_format, ifeval  # noqa: F401  their functions register themselves

    if name in UNSUPPORTED:
        raise BadInput(f"constraint {name!r} is not supported: {UNSUPPORTED[name]}", where=where)
    if name not in CONSTRAINTS:
        raise BadInput(f"unknown constraint {name!r}", where=where, remedy=f"Known: {', '.join(sorted(CONSTRAINTS))}")
    return CONSTRAINTS[name]
