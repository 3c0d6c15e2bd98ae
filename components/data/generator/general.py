"""General family: short replies to a person, in many manners. Pairs follow the gold judge of preference.py."""

from __future__ import annotations

import random

from components.data.generator.problem import Family, Problem
from components.data.schema import Verifier

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_TOPICS = ("tea", "map", "bus", "box", "pen", "cap", "key", "fan")
_GREETINGS = ("hello", "hi", "hey", "yo")
_CLOSINGS = ("thanks", "bye", "ok", "")


def name(rng: random.Random) -> str:
    pairs = rng.choice((1, 2))
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(pairs)) + rng.choice(_CONSONANTS)


def answer(person: str, topic: str, rng: random.Random) -> str:
    """One reply in a random manner: greeting, name or none, a sentence, closing, sometimes shouted."""
    words = [rng.choice(_GREETINGS)]
    if rng.random() < 0.6:
        words.append(person)
    stop = "!" if rng.random() < 0.4 else "."
    middle = f" the {topic} is here{stop}" if rng.random() < 0.7 else ""
    closing = rng.choice(_CLOSINGS)
    return (" ".join(words) + "," + middle + (f" {closing}{stop}" if closing else "")).strip()


def reply(level: int, rng: random.Random) -> Problem:
    """`h:bob tea` -> a reply. Nothing to work out: the thinking is empty, the manner is what preferences are about."""
    person, topic = name(rng), rng.choice(_TOPICS)
    reference = {"rubric": "reply", "name": person}
    final = answer(person, topic, rng)
    return Problem(f"h:{person} {topic}", "", final, Verifier(kind="preference", reference=reference))


REPLY = Family("general", "reply", reply)
