"""Solving with several agents: solvers write, graders read and object, solvers mend, within bounds; every word is kept.

For proofs, as the report attempts IMO 2025 (a multi-agent framework, three attempts a problem; its prompts and bounds
are unpublished, these are ours). One attempt:

    solvers write each a solution                                         round 0
    every solution is graded by every grader: 0 to 7 points and the gaps
    one that all graders give full points ends the attempt
    else the best ones are handed back with the objections and mended     rounds 1 .. rounds
    out of rounds or tokens: the solution with the best mean grade is the answer

A grader whose reply cannot be read has said nothing: its grade is left out, never 0; without a grade that can be read
the first solution is the answer. Grades steer the search; what the answer is worth is decided afterwards by the
benchmark's own judge. It is a Sampler, so caching, resuming and reports are those of every other benchmark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from components.data.schema import Message
from components.evaluation.sampler import Draw, Drawing, Drawn, Sampler, in_parts
from components.recipe.evaluation import AgenticConfig
from components.rewards import extract

FULL = 7.0
# Attempts whose drawings go out together; a kill loses at most these.
TOGETHER = 8
Step = tuple[Literal["solver", "grader"], list[Draw]]
WRITE = """Solve this problem completely. Write a rigorous proof: every step justified, every case treated, nothing \
left to the reader. State the final answer clearly where one is asked for.

{problem}"""
GRADE = """You grade a competition proof like a strict olympiad marker: 7 is complete and correct, 6 has a slip that \
does not matter, 1 to 5 partial progress, 0 nothing of value. A gap in a key step costs most of the points, however \
plausible the claim. Look for the first step that does not follow.

# Problem
{problem}

# Solution
{solution}

End with JSON in a code block: {{"points": 0 to 7, "gaps": ["what is wrong or missing, and where", ...]}}."""
MEND = """{write}

Your earlier solution:

{solution}

Graders object:

{objections}

Check each objection; some may be mistaken. Write the whole solution anew, with every real gap closed."""


@dataclass
class Grade:
    points: float
    gaps: list[str]


@dataclass
class Attempt:
    """solution: after its reasoning. grades: those that could be read; unread: graders' replies that could not."""

    round: int
    solution: str
    tokens: int
    finish: Literal["stop", "length", "refused"]
    grades: list[Grade] = field(default_factory=list)
    unread: int = 0

    @property
    def mean(self) -> float:
        """-1 without a grade, so that a graded solution comes first."""
        return fmean(grade.points for grade in self.grades) if self.grades else -1.0

    @property
    def rank(self) -> tuple[bool, float]:
        """Any solution before none."""
        return bool(self.solution), self.mean


class AgenticSampler:
    """Answers each request by the loop above.

    Args:
        solver, grader: who writes and who reads; the same model may be both.
        traces: folder for one JSON file an answer.
    """

    def __init__(self, solver: Sampler, grader: Sampler, config: AgenticConfig, traces: Path) -> None:
        self._solver, self._grader, self._config, self._traces = solver, grader, config, traces
        self.wave = max(1, solver.wave // config.solvers)
        self.context_length = solver.context_length

    def room(self, messages: tuple[Message, ...]) -> int | None:
        return None

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        return [drawn for part in self.parts(requests, drawing) for drawn in part]

    def parts(self, requests: list[Draw], drawing: Drawing) -> Iterator[list[Drawn]]:
        """Some attempts at a time, their drawings together; each is there as soon as its search has ended."""
        for start in range(0, len(requests), TOGETHER):
            yield from self._searches(requests[start : start + TOGETHER], drawing)

    def _searches(self, requests: list[Draw], drawing: Drawing) -> Iterator[list[Drawn]]:
        running = [self._solve(request) for request in requests]
        asked = [next(search) for search in running]
        while running:
            replies = self._together(asked, drawing)
            ended, going = [], []
            for search, found in zip(running, replies, strict=True):
                try:
                    going.append((search, search.send(found)))
                except StopIteration as end:
                    ended.append(end.value)
            running, asked = [search for search, _ in going], [step for _, step in going]
            if ended:
                yield ended

    def _together(self, steps: list[Step], drawing: Drawing) -> list[list[Drawn]]:
        """The replies to each step, drawn in one go from solver and grader."""
        replies: dict[str, Drawn] = {}
        for sampler, role in ((self._solver, "solver"), (self._grader, "grader")):
            draws = [draw for kind, wanted in steps if kind == role for draw in wanted]
            replies |= {drawn.request_id: drawn for drawn in (sampler.draw(draws, drawing) if draws else ())}
        return [[replies[draw.request_id] for draw in wanted] for _, wanted in steps]

    def _solve(self, request: Draw) -> Generator[Step, list[Drawn], Drawn]:
        """One search: it yields what it wants drawn and is sent the replies."""
        config, problem = self._config, request.messages[-1].content
        everything: list[Attempt] = []
        write, spent, reason = WRITE.format(problem=problem), 0, "rounds"
        asked = [write] * config.solvers
        for number in range(config.rounds + 1):
            written = yield "solver", self._writing(request, asked, number)
            fresh = [
                Attempt(number, (extract.final_text(one.text) or "").strip(), one.tokens, one.finish) for one in written
            ]
            spent += sum(attempt.tokens for attempt in fresh)
            graded, draws = self._grading(request, problem, fresh, number)
            if draws:
                replies = yield "grader", draws
                spent += sum(reply.tokens for reply in replies)
                _add_grades(graded, replies)
            everything += fresh
            best = sorted(everything, key=lambda attempt: attempt.rank, reverse=True)
            if best[0].mean >= FULL and not best[0].unread:
                reason = "accepted"
                break
            if spent >= config.token_budget:
                reason = "token budget"
                break
            asked = [
                MEND.format(write=write, solution=attempt.solution, objections=objections(attempt))
                for attempt in (best * config.solvers)[: config.solvers]
            ]
        if not any(attempt.grades for attempt in everything):
            reason = f"{reason}; no grade could be read"
        best = max(everything, key=lambda attempt: attempt.rank)
        self._keep(request, everything, reason, spent)
        return Drawn(request.request_id, best.solution, spent, best.finish)

    def _writing(self, request: Draw, asked: Sequence[str], number: int) -> list[Draw]:
        return [
            Draw(f"{request.request_id}/write/{number}/{k}", _user(text), seed_of(request.seed, number, k))
            for k, text in enumerate(asked)
        ]

    def _grading(
        self, request: Draw, problem: str, attempts: Sequence[Attempt], number: int
    ) -> tuple[list[Attempt], list[Draw]]:
        """(the attempt of each drawing, the drawings). An empty solution gets 0 points without asking."""
        for attempt in attempts:
            if not attempt.solution:
                attempt.grades.append(Grade(0.0, ["there is no solution"]))
        graded = [attempt for attempt in attempts if attempt.solution for _ in range(self._config.graders)]
        draws = [
            Draw(
                f"{request.request_id}/grade/{number}/{position}",
                _user(GRADE.format(problem=problem, solution=attempt.solution)),
                seed_of(request.seed, number, 1000 + position),
            )
            for position, attempt in enumerate(graded)
        ]
        return graded, draws

    def _keep(self, request: Draw, attempts: Sequence[Attempt], reason: str, tokens: int) -> None:
        self._traces.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", request.request_id)
        trace = {
            "request": request.request_id,
            "problem": request.messages[-1].content,
            "ended_by": reason,
            "tokens": tokens,
            "attempts": [asdict(attempt) for attempt in attempts],
        }
        (self._traces / f"{name}.json").write_text(json.dumps(trace, indent=1, ensure_ascii=False) + "\n")


class ByBenchmark:
    """Requests of the named benchmarks to `special`, all others to `usual`."""

    def __init__(self, usual: Sampler, special: Sampler, benchmarks: frozenset[str]) -> None:
        self._usual, self._special, self._benchmarks = usual, special, benchmarks
        self.wave, self.context_length = usual.wave, usual.context_length

    def room(self, messages: tuple[Message, ...]) -> int | None:
        return self._usual.room(messages)

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        found = {drawn.request_id: drawn for part in self.parts(requests, drawing) for drawn in part}
        return [found[request.request_id] for request in requests]

    def parts(self, requests: list[Draw], drawing: Drawing) -> Iterator[list[Drawn]]:
        special = [request for request in requests if request.request_id.partition("|")[0] in self._benchmarks]
        usual = [request for request in requests if request.request_id.partition("|")[0] not in self._benchmarks]
        yield from in_parts(self._usual, usual, drawing)
        yield from in_parts(self._special, special, drawing)


def _add_grades(graded: Sequence[Attempt], replies: Sequence[Drawn]) -> None:
    for attempt, reply in zip(graded, replies, strict=True):
        grade = read_grade(reply.text)
        if grade is None:
            attempt.unread += 1
        else:
            attempt.grades.append(grade)


def read_grade(text: str) -> Grade | None:
    """The last {"points", "gaps"} of a reply; None when there is none, or the points are not 0 to 7."""
    for found in reversed(re.findall(r"\{.*?\}", extract.final_text(text) or "", re.DOTALL)):
        try:
            row = json.loads(found)
            points = float(row["points"])
        except (ValueError, KeyError, TypeError):
            continue
        if 0 <= points <= FULL:
            gaps = row.get("gaps")
            return Grade(points, [str(gap) for gap in gaps] if isinstance(gaps, list) else [])
    return None


def objections(attempt: Attempt) -> str:
    """All graders' gaps, each once, in order."""
    gaps = dict.fromkeys(gap for grade in attempt.grades for gap in grade.gaps)
    return "\n".join(f"- {gap}" for gap in gaps) or "- none in words; the grade was not full"


def seed_of(seed: int, number: int, position: int) -> int:
    """31 bits."""
    return (seed * 1_000_003 + number * 8191 + position) % (1 << 31)


def _user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)
