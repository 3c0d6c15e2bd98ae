"""What a standard benchmark is: where its records are, what is asked, how answers are drawn, checked and summed up.

One small file per family in components/evaluation/benchmarks; a file that is added there is found by name. Settings are
those of the Ring-1T report (arXiv 2510.18855) where it states them, else of the benchmark's own authors, and each file
says which. No data is shipped: records come from a file of the user's, a Hugging Face directory or the hub.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from components.data.jsonl import record_id
from components.data.schema import BenchmarkItem, Message, Verifier
from components.evaluation.types import Answer, Metric
from components.failures import BadInput
from components.recipe.data import Domain

Row = Mapping[str, Any]
BoardFunction = Callable[[Sequence[Answer], Mapping[str, Path]], list[dict[str, Any]]]
MetricFunction = Callable[[Sequence[Answer], float, Mapping[str, Path]], dict[str, Metric]]


class RecordProblem(ValueError):
    """A record that is no item: `field` names where."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(problem)


@dataclass(frozen=True)
class Question:
    """One record as it is asked and checked.

    key: names the record inside its benchmark. family: what scores are broken down by (subject, theme, contest).
    """

    key: str
    prompt: str | tuple[Message, ...]
    verifier: Verifier
    family: str = ""
    level: int = 0


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub, for machines that reach it."""

    name: str
    split: str
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """read: record -> Question; raises RecordProblem, or KeyError for a field that is missing.

    samples: answers per item. temperature, top_p, max_new_tokens: how they are drawn; max_new_tokens is cut to what the
    model's context leaves. metrics: further numbers from the answers, beside avg@k and pass@k; headline: the one the
    benchmark is known by. board: rows of a table for the page. judged: a judge model is needed. agentic: answered by
    the solver-grader loop. files: further files it can use; those in `needs` it must have. keep: which records belong
    to it. variant: (benchmark, text after the colon of its name) -> benchmark. ask: (item, sample) -> messages, where
    samples of one item are asked differently. source: where the settings and the scoring rule come from.
    """

    name: str
    title: str
    domain: Domain
    read: Callable[[Row], Question]
    source: str
    hub: Hub | None = None
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 32_768
    metrics: MetricFunction | None = None
    headline: str = "avg"
    board: BoardFunction | None = None
    judged: bool = False
    agentic: bool = False
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    keep: Callable[[Row], bool] | None = None
    variant: Callable[[Benchmark, str], Benchmark] | None = None
    ask: Callable[[BenchmarkItem, int], tuple[Message, ...]] | None = None

    def item(self, row: Row, licence: str = "", source: str = "") -> BenchmarkItem:
        """Raises RecordProblem with the field."""
        try:
            question = self.read(row)
        except KeyError as error:
            raise RecordProblem(str(error.args[0]), "the field is missing") from None
        prompt = question.prompt
        messages = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
        if not any(message.content.strip() for message in messages):
            raise RecordProblem("prompt", "there is nothing to ask")
        content = {"prompt": [m.model_dump() for m in messages], "verifier": question.verifier.model_dump()}
        return BenchmarkItem(
            id=record_id({"benchmark": self.name, "key": question.key, **content}),
            source=source or str(row.get("source", "")),
            licence=licence or str(row.get("license", "")),
            domain=self.domain,
            family=question.family or self.name,
            level=question.level,
            prompt=messages,
            verifier=question.verifier,
            benchmark=self.name,
        )


def text(row: Row, *names: str) -> str:
    """The first of the fields that holds text or a number. Raises RecordProblem."""
    for name in names:
        value = row.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    raise RecordProblem(names[0], "no text here" if len(names) == 1 else f"no text in any of {', '.join(names)}")


@cache
def registry() -> Mapping[str, Benchmark]:
    """name -> benchmark, of every module in components.evaluation.benchmarks."""
    from components.evaluation import benchmarks

    found: dict[str, Benchmark] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__)):
        for benchmark in importlib.import_module(f"{benchmarks.__name__}.{module}").BENCHMARKS:
            if benchmark.name in found:
                raise RuntimeError(f"two benchmarks are called {benchmark.name}")
            found[benchmark.name] = benchmark
    return found


def is_standard(name: str) -> bool:
    """Whether a benchmark of this name (or of its part before a colon) is registered."""
    return name.partition(":")[0] in registry()


def find(name: str) -> Benchmark:
    """The benchmark of a name such as `aime25` or `livecodebench:2410-2504`. Raises BadInput with the nearest names."""
    known = registry()
    base, colon, suffix = name.partition(":")
    if colon and base in known and (variant := known[base].variant) is not None:
        try:
            return variant(known[base], suffix)
        except RecordProblem as error:
            raise BadInput(str(error), where=f"benchmark {name}") from None
    if name not in known:
        near = get_close_matches(name, known, 3) or sorted(known)
        raise BadInput(f"no benchmark is called {name!r}", where="benchmark", remedy=f"Known: {', '.join(near)}")
    return known[name]
