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


def garble(text: str, rng: random.Random) -> str:
    """The reply as a failing model writes it: a letter doubled or lost, a word repeated, another name, or no end.

    A reward model that saw only well-formed replies can be pleased with nonsense, and RL finds it.
    """
    words = text.split(" ")
    place = rng.randrange(len(words))
    letter = rng.randrange(max(1, len(words[place]) - 1))
    kind = rng.choice(("double", "lose", "repeat", "name", "run on"))
    if kind == "double":
        words[place] = words[place][: letter + 1] + words[place][letter:]
    elif kind == "lose":
        words[place] = words[place][:letter] + words[place][letter + 1 :]
    elif kind == "repeat":
        words.insert(place, words[place])
    elif kind == "name":
        words.insert(1, name(rng) + ",")
    else:
        words += rng.choices(words, k=4)
    return " ".join(words)


def reply(level: int, rng: random.Random) -> Problem:
    """`h:bob tea` -> a reply. Nothing to work out: the thinking is empty, the manner is what preferences are about."""
    person, topic = name(rng), rng.choice(_TOPICS)
    reference = {"rubric": "reply", "name": person}
    final = answer(person, topic, rng)
    return Problem(f"h:{person} {topic}", "", final, Verifier(kind="preference", reference=reference))


REPLY = Family("general", "reply", reply)
