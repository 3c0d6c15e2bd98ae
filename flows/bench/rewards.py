"""Verifications per second of every kind of rule reward, their latency one at a time, and what a bomb costs.

Batches are as in a step of training: many responses to one prompt, some of them equal, half of them wrong. Every batch
has its own answers, so that nothing is remembered from the one before. A bomb is an answer that would be computed for
ever: it ends at its processor time, and the figure beside it says what the rest of its batch waited.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from components.data.schema import Verifier
from components.rewards.scorer import RuleScorer, open_scorer
from components.rewards.types import RewardRequest
from components.sandbox.languages import available_languages
from flows.bench import Bench, Figure

BATCH = 64
SINGLES = 100
REPETITIONS = 3
DEADLINE_S = 20.0
WORKERS = 2

_SERIAL = itertools.count(2)
Maker = Callable[[int, bool], tuple[Verifier, str]]


def _symbols(n: int, right: bool) -> tuple[Verifier, str]:
    return Verifier(kind="math", reference={"answer": f"{n}x^2-{n}"}), f"\\boxed{{{n}(x-1)(x+{1 if right else 2})}}"


def _numbers(n: int, right: bool) -> tuple[Verifier, str]:
    return Verifier(kind="math", reference={"answer": f"\\frac{{{n}}}{{4}}"}), f"\\boxed{{{(n + (not right)) / 4}}}"


def _science(n: int, right: bool) -> tuple[Verifier, str]:
    unit = "\\text{ m}" if right else "\\text{ s}"
    return Verifier(kind="science", reference={"answer": f"{n}", "unit": "km"}), f"\\boxed{{{n * 1000}{unit}}}"


def _logic(n: int, right: bool) -> tuple[Verifier, str]:
    return Verifier(kind="logic", reference={"answer": f"a={n};b=0"}), f"\\boxed{{a={n}; b={0 if right else 1}}}"


def _puzzle(n: int, right: bool) -> tuple[Verifier, str]:
    metadata = {"source_dataset": "countdown", "numbers": [n, 2, 3], "target": n + 6, "expression": f"{n} + 2*3"}
    entry = {"question": f"Make {n + 6} of {n}, 2, 3", "answer": f"{n} + 2*3", "metadata": metadata}
    return Verifier(kind="logic", reference={"entry": entry}), f"\\boxed{{2*3 {'+' if right else '-'} {n}}}"


def _instruction(n: int, right: bool) -> tuple[Verifier, str]:
    constraints = [
        {"id": "length_constraints:number_words", "arguments": {"relation": "at least", "num_words": 100}},
        {"id": "keywords:existence", "arguments": {"keywords": [f"number{n}"]}},
        {"id": "length_constraints:number_sentences", "arguments": {"relation": "at least", "num_sentences": 5}},
        {"id": "punctuation:no_comma", "arguments": {}},
    ]
    text = f"This is sentence number{n} of a reply without any mark. " * 12 + ("" if right else "No, not so.")
    return Verifier(kind="instruction", reference={"constraints": constraints}), text


def _program(language: str, source: str) -> Maker:
    def make(n: int, right: bool) -> tuple[Verifier, str]:
        tests = [{"stdin": f"{x}\n", "stdout": f"{x + n}"} for x in range(4)]
        text = f"```{language}\n{source.replace('N', str(n if right else n + 1))}\n```"
        return Verifier(kind="code", reference={"language": language, "tests": tests}), text

    return make


KINDS: dict[str, Maker] = {
    "math, numbers": _numbers,
    "math, symbols": _symbols,
    "science": _science,
    "logic, text": _logic,
    "logic, puzzle": _puzzle,
    "instruction": _instruction,
    "code, python": _program("python", "print(int(input())+N)"),
    "code, bash": _program("bash", "read x; echo $((x+N))"),
    "code, c": _program("c", '#include <stdio.h>\nint main(){int x;scanf("%d",&x);printf("%d",x+N);}'),
}
BOMB = "\\boxed{9^{9^{9^{9^{9}}}}}"


def run() -> Bench:
    figures: dict[str, Figure] = {}
    here = set(available_languages())
    with open_scorer(WORKERS, WORKERS) as scorer:
        for name, make in KINDS.items():
            if name.startswith("code, ") and name.removeprefix("code, ") not in here:
                continue
            _score(scorer, _batch(make, 4))  # starts the processes
            rates = [BATCH / _score(scorer, _batch(make, BATCH)) for _ in range(REPETITIONS)]
            singles = sorted(_score(scorer, _batch(make, 1)) * 1e3 for _ in range(SINGLES))
            figures[f"{name}: rate"] = Figure.of(rates, "1/s")
            figures[f"{name}: p50"] = Figure(singles[SINGLES // 2], "ms", singles[0], singles[-1])
            figures[f"{name}: p99"] = Figure(singles[SINGLES * 99 // 100 - 1], "ms", singles[0], singles[-1])
        calm, with_bomb, alone = [], [], []
        for _ in range(REPETITIONS):
            calm.append(_score(scorer, _batch(_symbols, BATCH)))
            with_bomb.append(_score(scorer, [_bomb(), *_batch(_symbols, BATCH)]))
            alone.append(_score(scorer, [_bomb()]))
        figures["64 symbolic answers"] = Figure.of(calm, "s")
        figures["64 symbolic answers and a bomb"] = Figure.of(with_bomb, "s")
        figures["a bomb alone"] = Figure.of(alone, "s")
    return Bench(figures, {"batch": BATCH, "workers": WORKERS, "one at a time": SINGLES, "languages": sorted(here)})


def _batch(make: Maker, size: int) -> list[RewardRequest]:
    """Half right, half wrong, all of them new."""
    return [_request(*make(next(_SERIAL), at % 2 == 0), right=at % 2 == 0) for at in range(size)]


def _request(verifier: Verifier, response: str, *, right: bool) -> RewardRequest:
    return RewardRequest("right" if right else "wrong", "prompt", response, verifier)


def _bomb() -> RewardRequest:
    answer = f"{next(_SERIAL)}x"  # a new pair every time: outcomes are remembered
    return RewardRequest("wrong", "prompt", BOMB, Verifier(kind="math", reference={"answer": answer}))


def _score(scorer: RuleScorer, batch: list[RewardRequest]) -> float:
    """Seconds; refuses to count verdicts that are not what the batch was made for."""
    started = time.perf_counter()
    rewards = scorer.score(batch, DEADLINE_S)
    seconds = time.perf_counter() - started
    wrong = [
        (request.response[:60], reward.verdict)
        for request, reward in zip(batch, rewards, strict=True)
        if reward.verdict != ("correct" if request.request_id == "right" else "wrong")
    ]
    if wrong:
        raise AssertionError(f"{len(wrong)} of {len(batch)} verdicts are not what they must be: {wrong[:3]}")
    return seconds
