"""What is asked of a model: the items of each benchmark, and the settings its answers are drawn and summed up with.

A standard benchmark brings its own settings (components.evaluation.benchmark); the recipe's own held-out sets have
those of the section `evaluate`. `evaluate.settings` overrides single values of one benchmark by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.schema import BenchmarkItem, Message
from components.evaluation.agentic import AgenticSampler, ByBenchmark
from components.evaluation.benchmark import MetricFunction, find, is_standard
from components.evaluation.sampler import Drawing, Sampler
from components.failures import BadInput
from components.recipe.evaluation import AgenticConfig, EvaluationConfig

Ask = Callable[[BenchmarkItem, int], tuple[Message, ...]]


@dataclass(frozen=True)
class Suite:
    """fit: max_new_tokens may be cut to what the context leaves. agentic: answered by the solver-grader loop.
    ask: messages of an item's sample, else its prompt."""

    name: str
    items: tuple[BenchmarkItem, ...]
    samples: int
    drawing: Drawing
    fit: bool = False
    agentic: bool = False
    ask: Ask | None = None

    def messages(self, item: BenchmarkItem, sample: int) -> tuple[Message, ...]:
        return self.ask(item, sample) if self.ask is not None else item.prompt

    def settings(self) -> dict[str, Any]:
        """What makes its score another one when it changes."""
        drawing = self.drawing
        return {
            "samples": self.samples,
            "items": len(self.items),
            "temperature": drawing.temperature,
            "top_p": drawing.top_p,
            "max_new_tokens": drawing.max_new_tokens,
        }


def suites_of(items: Mapping[str, list[BenchmarkItem]], config: EvaluationConfig) -> list[Suite]:
    """One per benchmark, in order.

    Raises:
        BadInput: a benchmark has no items, or settings name one that is not there.
    """
    given = {setting.benchmark: setting for setting in config.settings}
    for name in given:
        if name not in items:
            raise BadInput(
                f"there is no benchmark {name!r} to set",
                where="evaluate.settings",
                remedy=f"There is: {', '.join(items)}",
            )
    found = []
    for name, members in items.items():
        if not members:
            raise BadInput("the benchmark has no items", where=name, remedy="Remove it or give it items")
        standard = find(name) if is_standard(name) else None
        source = standard or config
        values = {
            field: getattr(given.get(name), field, None) or getattr(source, field)
            for field in ("samples", "top_p", "max_new_tokens")
        }
        temperature = getattr(given.get(name), "temperature", None)
        limit = getattr(given.get(name), "items", None) or config.items
        found.append(
            Suite(
                name=name,
                items=tuple(members[:limit]),
                samples=values["samples"],
                drawing=Drawing(
                    source.temperature if temperature is None else temperature,
                    values["top_p"],
                    values["max_new_tokens"],
                ),
                fit=standard is not None,
                agentic=standard is not None and standard.agentic,
                ask=standard.ask if standard is not None else None,
            )
        )
    return found


def with_agents(sampler: Sampler, suites: Sequence[Suite], config: AgenticConfig, traces: Path) -> Sampler:
    """The sampler, with the solver-grader loop in front of it for benchmarks that want it; a model grades itself."""
    names = frozenset(suite.name for suite in suites if suite.agentic)
    if not names:
        return sampler
    return ByBenchmark(sampler, AgenticSampler(sampler, sampler, config, traces), names)


def metrics_of(name: str) -> MetricFunction | None:
    """Further numbers of a standard benchmark; None for others."""
    return find(name).metrics if is_standard(name) else None
