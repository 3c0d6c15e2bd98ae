"""Draws the splits of the generated corpus so that no prompt stands in two of them.

Order matters and is fixed: benchmarks first, then RL prompts, preference pairs and SFT records, each refusing prompts
that an earlier one took. Raw text for pre-training shows steps and facts without the chat format.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from itertools import cycle

from components.data.generator import code, general, logic, math, science
from components.data.generator.problem import (
    BENCHMARK_LEVELS,
    CARELESS_FRACTION,
    LEVELS,
    OPEN_SFT_LEVELS,
    RL_LEVELS,
    Family,
    Problem,
)
from components.data.preference import gold
from components.data.schema import BenchmarkItem, Message, PreferenceRecord, PretrainRecord, RlRecord, SftRecord
from components.failures import BadInput
from components.recipe.data import GeneratorSource

TAUGHT: tuple[Family, ...] = (math.TAUGHT, code.TAUGHT, logic.TAUGHT, science.TAUGHT)
OPEN: tuple[Family, ...] = (math.OPEN, code.OPEN, logic.OPEN, science.OPEN)
GENERAL: tuple[Family, ...] = (general.REPLY,)
LICENCE = "CC0-1.0"
SFT_GENERAL_FRACTION = 0.08  # "others" of the published SFT mix
PREFERENCE_HELDOUT_FRACTION = 0.1
GARBLED_FRACTION = 0.5  # of the pairs: the same reply, once as it was meant
_MAX_TRIES = 2000


@dataclass(frozen=True)
class GeneratedCorpus:
    pretrain: list[PretrainRecord]
    sft: list[SftRecord]
    rl: list[RlRecord]
    preference: list[PreferenceRecord]
    preference_heldout: list[PreferenceRecord]
    benchmarks: dict[str, list[BenchmarkItem]]


def generate(source: GeneratorSource, seed: int) -> GeneratedCorpus:
    """All splits of `source`, the same for the same seed on every machine."""
    origin = f"generator:nano?seed={seed}"
    taken: set[str] = set()
    hardest, open_ = source.max_level, open_families(source)
    benchmarks = {
        f"nano-{domain}": _benchmark(
            domain, open_, source.benchmark, hardest, _stream(seed, f"benchmark-{domain}"), origin, taken
        )
        for domain in ("math", "code", "logic", "science", "general")
    }
    rl = _rl(open_, source.rl, hardest, _stream(seed, "rl"), origin, taken)
    preference = _preference(source.preference, _stream(seed, "preference"), origin, taken)
    held = int(len(preference) * PREFERENCE_HELDOUT_FRACTION)
    return GeneratedCorpus(
        pretrain=_pretrain(open_, source.pretrain, hardest, _stream(seed, "pretrain"), origin, taken),
        sft=_sft(open_, source.sft, hardest, _stream(seed, "sft"), origin, taken),
        rl=rl,
        preference=preference[held:],
        preference_heldout=preference[:held],
        benchmarks=benchmarks,
    )


def open_families(source: GeneratorSource) -> tuple[Family, ...]:
    """The families that SFT shows easy levels of; code in the languages that the source names."""
    if not source.code_languages:
        return OPEN
    return tuple(code.fold_in(source.code_languages) if family is code.OPEN else family for family in OPEN)


def _stream(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed}/{purpose}")


def _up_to(hardest: int, levels: tuple[int, ...]) -> tuple[int, ...]:
    """The levels of a split, none above `hardest`."""
    return tuple(min(level, hardest) for level in levels)


def _identity(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _user(prompt: str) -> tuple[Message, ...]:
    return (Message(role="user", content=prompt),)


def _new(family: Family, level: int, rng: random.Random, taken: set[str], *, claim: bool = True) -> Problem:
    """A problem that no split in `taken` asks; goes up a level when one is exhausted. `claim` adds it to `taken`."""
    for attempt in range(_MAX_TRIES):
        problem = family.make(level + attempt // 1000, rng)
        if problem.identity not in taken:
            if claim:
                taken.add(problem.identity)
            return problem
    raise BadInput(
        f"family {family.name} has no unused problem left at level {level}",
        where="corpus.sources",
        remedy="Ask the generator for fewer records",
    )


def _benchmark(
    domain: str, open_: tuple[Family, ...], count: int, hardest: int, rng: random.Random, origin: str, taken: set[str]
) -> list[BenchmarkItem]:
    families = cycle(family for family in (*TAUGHT, *open_, *GENERAL) if family.domain == domain)
    levels, items = _up_to(hardest, BENCHMARK_LEVELS), []
    for index in range(count):
        family, level = next(families), levels[index // 2 % len(levels)]
        problem = _new(family, level, rng, taken)
        items.append(
            BenchmarkItem(
                id=_identity("benchmark", problem.prompt),
                source=origin,
                licence=LICENCE,
                domain=family.domain,
                family=family.name,
                level=level,
                prompt=_user(problem.prompt),
                verifier=problem.verifier,
                benchmark=f"nano-{domain}",
            )
        )
    return items


def _rl(
    open_: tuple[Family, ...], count: int, hardest: int, rng: random.Random, origin: str, taken: set[str]
) -> list[RlRecord]:
    families = cycle((*open_, *GENERAL))
    records = []
    for index in range(count):
        family, level = next(families), rng.choice(_up_to(hardest, RL_LEVELS))
        problem = _new(family, level, rng, taken)
        records.append(
            RlRecord(
                id=_identity("rl", problem.prompt, index),
                source=origin,
                licence=LICENCE,
                domain=family.domain,
                family=family.name,
                level=level,
                prompt=_user(problem.prompt),
                verifier=problem.verifier,
            )
        )
    return records


def _sft(
    open_: tuple[Family, ...], count: int, hardest: int, rng: random.Random, origin: str, taken: set[str]
) -> list[SftRecord]:
    reasoning, everyday = cycle((*TAUGHT, *open_)), cycle(GENERAL)
    records = []
    for index in range(count):
        is_general = rng.random() < SFT_GENERAL_FRACTION
        family = next(everyday) if is_general else next(reasoning)
        careless = not is_general and rng.random() < CARELESS_FRACTION
        level = rng.choice(_up_to(hardest, OPEN_SFT_LEVELS if family in open_ else LEVELS))
        # Easy levels have few distinct prompts: repeats inside SFT are fine, a prompt of another split is not.
        problem = _new(family, level, rng, taken, claim=False)
        response = problem.careless() if careless else problem.worked()
        records.append(
            SftRecord(
                id=_identity("sft", problem.prompt, response, index),
                source=origin,
                licence=LICENCE,
                domain=family.domain,
                family=family.name,
                level=level,
                prompt=_user(problem.prompt),
                response=response,
            )
        )
    return records


def _preference(count: int, rng: random.Random, origin: str, taken: set[str]) -> list[PreferenceRecord]:
    records: list[PreferenceRecord] = []
    while len(records) < count:
        problem = _new(GENERAL[0], 1, rng, taken)
        person, topic = problem.prompt.removeprefix("h:").split(" ")
        left, right = (general.answer(person, topic, rng) for _ in range(2))
        if rng.random() < GARBLED_FRACTION:
            right = general.garble(left, rng)
        left, right = f"<think></think>{left}", f"<think></think>{right}"
        scores = gold(problem.verifier.reference, left), gold(problem.verifier.reference, right)
        if scores[0] == scores[1]:
            continue
        chosen, rejected = (left, right) if scores[0] > scores[1] else (right, left)
        records.append(
            PreferenceRecord(
                id=_identity("preference", problem.prompt, chosen, rejected),
                source=origin,
                licence=LICENCE,
                prompt=_user(problem.prompt),
                chosen=chosen,
                rejected=rejected,
            )
        )
    return records


def _pretrain(
    open_: tuple[Family, ...], count: int, hardest: int, rng: random.Random, origin: str, taken: set[str]
) -> list[PretrainRecord]:
    """Raw text without roles: problems, their steps and results as loose lines, of every length."""
    records = []
    for index in range(count):
        lines = []
        # Drawn, not dealt in turn: a family that always stands second is not known where it stands first.
        for family in rng.choices((*TAUGHT, *open_, *GENERAL), k=3):
            problem = _new(family, rng.choice(_up_to(hardest, LEVELS)), rng, taken, claim=False)
            lines.append(f"{problem.prompt}\n{problem.thinking}\n{problem.final}")
        text = "\n".join(lines)
        records.append(PretrainRecord(id=_identity("pretrain", text, index), source=origin, licence=LICENCE, text=text))
    return records
