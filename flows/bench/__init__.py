"""Benchmarks, one module each: `run(**options) -> Bench`. `ringflow bench NAME` prints a table or one JSON object.

A figure is measured several times and given as median with its range; `setup` says on what.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from components.failures import BadInput


@dataclass(frozen=True)
class Figure:
    """value: median; low and high: the smallest and largest of the repetitions."""

    value: float
    unit: str
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], unit: str) -> Figure:
        return cls(statistics.median(values), unit, min(values), max(values))


@dataclass(frozen=True)
class Check:
    """A number that must not exceed another. found: NaN for a check that could not be made; why: what stopped it."""

    found: float
    allowed: float
    unit: str = ""
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.found <= self.allowed


@dataclass(frozen=True)
class Bench:
    """What a benchmark returns; setup: everything a reader needs to judge the figures. checks: of those that have some,
    by what is checked."""

    figures: Mapping[str, Figure]
    setup: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Check] = field(default_factory=dict)


def names() -> list[str]:
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(name: str) -> Callable[..., Bench]:
    """The benchmark of this name. Raises BadInput that lists the names."""
    if name not in names():
        raise BadInput(f"no benchmark is called {name!r}", remedy=f"Benchmarks: {', '.join(names())}")
    return import_module(f"flows.bench.{name}").run


def options(name: str, given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE texts as arguments of the benchmark, by the types of its defaults. Raises BadInput for other forms."""
    found: dict[str, Any] = {}
    parameters = signature(load(name)).parameters
    for text in given:
        key, equals, value = text.partition("=")
        kind = type(parameters[key].default) if key in parameters else str
        try:
            found[key] = kind(value) if kind in (int, float, str) else int(value)
        except ValueError:
            equals = ""
        if not equals:
            raise BadInput(f"{text!r} is no NAME=VALUE of a {kind.__name__}", where="--option")
    return found


def measure(name: str, **options: Any) -> dict[str, Any]:
    """Runs a benchmark: {bench, figures: {name: {value, unit, low, high}}, checks, setup, commit}.

    options: arguments of its `run`; those that are None are left out.
    Raises:
        BadInput: the benchmark has no such option.
    """
    run, given = load(name), {key: value for key, value in options.items() if value is not None}
    accepted = list(signature(run).parameters)
    for key in given:
        if key not in accepted:
            raise BadInput(f"bench {name} has no option {key!r}", remedy=f"It takes: {', '.join(accepted) or 'none'}")
    bench = run(**given)
    machine = {"cpus": len(os.sched_getaffinity(0)), "machine": platform.machine(), "python": platform.python_version()}
    return {
        "bench": name,
        "figures": {key: asdict(figure) for key, figure in bench.figures.items()},
        "setup": {**machine, **bench.setup},
        "checks": {key: asdict(check) | {"passed": check.passed} for key, check in bench.checks.items()},
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
