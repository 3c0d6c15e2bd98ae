"""Optional shaping, off unless a recipe turns it on: form of the reasoning, and consistency of language.

Both take a penalty off the reward; a response that has none (an error) stays one. Language is judged by script, which
needs no model: the failure it is for is Chinese in the middle of an English derivation.
"""

from __future__ import annotations

from dataclasses import replace

import regex

from components.recipe.rewards import ShapingConfig
from components.rewards.types import Reward, RewardRequest

_SCRIPTS = {
    name: regex.compile(rf"\p{{{name}}}")
    for name in ("Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Arabic", "Devanagari", "Hebrew", "Thai",
                 "Bengali", "Tamil", "Telugu", "Gujarati", "Gurmukhi", "Kannada")
}  # fmt: skip
# Letters of formulas say nothing about the language of a text.
_FORMULAS = regex.compile(r"\$[^$\n]*\$|\\[A-Za-z]+|[A-Za-z]?\\?_\{?\w+\}?")
_SEEN = 0.02  # a script with less than this share of the prompt's letters is a quotation, not its language


def shape(reward: Reward, request: RewardRequest, config: ShapingConfig) -> Reward:
    """The reward less its penalties, which are evidence; the same reward when there are none."""
    if reward.value is None or not (config.format or config.language):
        return reward
    penalties = {
        "format": config.format * (not well_formed(request.response)),
        "language": config.language * foreign_share(request.prompt, request.response),
    }
    penalties = {name: value for name, value in penalties.items() if value}
    if not penalties:
        return reward
    evidence = reward.evidence | {"shaping": penalties, "unshaped": reward.value}
    return replace(reward, value=reward.value - sum(penalties.values()), evidence=evidence)


def well_formed(response: str) -> bool:
    """One block of reasoning, ended once, followed by an answer. A template may have opened it in the prompt."""
    head, ends, answer = response.partition("</think>")
    return bool(ends and answer.strip()) and "think>" not in answer and head.count("<think>") <= 1


def foreign_share(prompt: str, response: str) -> float:
    """Share of the response's letters in scripts that the prompt does not use; 0 for a prompt without letters."""
    asked, given = _counts(prompt), _counts(response)
    total = sum(asked.values())
    if not total or not given:
        return 0.0
    own = {name for name, count in asked.items() if count >= _SEEN * total}
    if own & {"Hiragana", "Katakana"}:
        own |= {"Han", "Hiragana", "Katakana"}
    return sum(count for name, count in given.items() if name not in own) / sum(given.values())


def _counts(text: str) -> dict[str, int]:
    plain = _FORMULAS.sub(" ", text)
    found = {name: len(pattern.findall(plain)) for name, pattern in _SCRIPTS.items()}
    return {name: count for name, count in found.items() if count}
