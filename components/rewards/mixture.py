"""Which reward each prompt has, and how several are mixed: the Scorer of a phase.

Routing is by domain, as the recipe's `rewards` section says; what it does not mention goes to the rule verifiers and,
where there is one, open-ended prompts go to the trained reward model. Parts of different scales are normalised inside
the group before they are weighed: that depends on nothing but the group, so a resumed run repeats it exactly.

The reference of a preference prompt holds the generator's gold judge, which evaluation asks and training must never
see: in RLHF such prompts go to the reward model by their kind alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from components.data.schema import Verifier
from components.recipe.rewards import DomainReward, RewardPart, RewardsConfig, RuleReward
from components.rewards.shaping import shape
from components.rewards.types import GroupScorer, Reward, RewardRequest, Scorer

_RULE = RewardPart(reward=RuleReward())


class Mixture:
    """Implements `GroupScorer` over other scorers.

    Args:
        rules: scorer of the rule verifiers.
        open_ended: the reward model, for prompts of the kind `preference` in domains that `config` does not mention;
            the rules when absent.
        parts: the scorer of each part that `config` names, except `rule` and `reward-model`.
    """

    def __init__(
        self,
        config: RewardsConfig,
        rules: Scorer,
        open_ended: Scorer | None = None,
        parts: Mapping[RewardPart, Scorer] | None = None,
    ) -> None:
        self._config, self._rules, self._open_ended = config, rules, open_ended
        self._domains: dict[str, DomainReward] = {row.domain: row for row in config.domains}
        self._parts = dict(parts or {})

    def needs_group(self, domain: str, verifier: Verifier) -> bool:
        for part in self._parts_of(domain, verifier):
            scorer = self._scorer(part, verifier)
            if part.normalise != "none" or (isinstance(scorer, GroupScorer) and scorer.needs_group(domain, verifier)):
                return True
        return False

    def score(self, requests: list[RewardRequest], deadline_s: float) -> list[Reward]:
        """One reward per request, in order; each scorer is asked once."""
        parts = [self._parts_of(request.domain, request.verifier) for request in requests]
        asked: dict[int, tuple[Scorer, list[tuple[int, int]]]] = {}
        for at, request in enumerate(requests):
            for number, part in enumerate(parts[at]):
                scorer = self._scorer(part, request.verifier)
                asked.setdefault(id(scorer), (scorer, []))[1].append((at, number))
        found: dict[tuple[int, int], Reward] = {}
        for scorer, places in asked.values():
            scored = scorer.score([requests[at] for at, _ in places], deadline_s)
            found |= dict(zip(places, scored, strict=True))
        values = _normalised(requests, parts, found)
        mixed = (_mixed(own, [found[at, n] for n in range(len(own))], values, at) for at, own in enumerate(parts))
        return [shape(reward, request, self._config.shaping) for reward, request in zip(mixed, requests, strict=True)]

    def close(self) -> None:
        for scorer in {id(s): s for s in (self._rules, self._open_ended, *self._parts.values()) if s}.values():
            scorer.close()

    def _parts_of(self, domain: str, verifier: Verifier) -> tuple[RewardPart, ...]:
        row = self._domains.get(domain)
        if row is None or (row.open_only and verifier.kind != "preference"):
            return (_RULE,)
        return row.parts

    def _scorer(self, part: RewardPart, verifier: Verifier) -> Scorer:
        if part in self._parts:
            return self._parts[part]
        if part.reward.kind == "reward-model" or (part is _RULE and verifier.kind == "preference"):
            return self._open_ended or self._rules
        return self._rules


def _normalised(
    requests: Sequence[RewardRequest],
    parts: Sequence[Sequence[RewardPart]],
    found: Mapping[tuple[int, int], Reward],
) -> dict[tuple[int, int], float]:
    """Values by (request, part); errors have none."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    values: dict[tuple[int, int], float] = {}
    for (at, number), reward in found.items():
        if reward.value is not None:
            values[at, number] = reward.value
            groups[requests[at].group or requests[at].prompt, number].append(at)
    for (_, number), members in groups.items():
        scaled = normalise([values[at, number] for at in members], parts[members[0]][number].normalise)
        values |= {(at, number): value for at, value in zip(members, scaled, strict=True)}
    return values


def normalise(values: Sequence[float], rule: str) -> list[float]:
    """`group`: (value - mean) / deviation, all 0 without one. `rank`: mean rank in [0, 1]. `none`: as they are."""
    if rule == "none":
        return list(values)
    if rule == "group":
        mean, deviation = fmean(values), pstdev(values)
        return [(value - mean) / deviation if deviation > 1e-9 else 0.0 for value in values]
    others = max(len(values) - 1, 1)
    below = [sum(other < value for other in values) for value in values]
    ties = [sum(other == value for other in values) - 1 for value in values]
    return [(low + tied / 2) / others for low, tied in zip(below, ties, strict=True)]


def _mixed(
    parts: Sequence[RewardPart], rewards: Sequence[Reward], values: Mapping[tuple[int, int], float], at: int
) -> Reward:
    if len(parts) == 1 and parts[0].normalise == "none":
        return rewards[0]
    evidence = {
        "parts": [
            {
                "kind": part.reward.kind,
                "weight": part.weight,
                "value": reward.value,
                "normalised": values.get((at, number)),
                "verdict": reward.verdict,
                "evidence": reward.evidence,
            }
            for number, (part, reward) in enumerate(zip(parts, rewards, strict=True))
        ]
    }
    seconds, tokens = sum(reward.seconds for reward in rewards), sum(reward.tokens for reward in rewards)
    failed = next((reward for reward in rewards if reward.value is None), None)
    if failed is not None:
        evidence["problem"] = failed.evidence.get("problem", "a part of the reward failed")
        return Reward(None, "error", evidence, seconds, tokens)
    total = sum(part.weight for part in parts)
    value = sum(part.weight * values[at, number] for number, part in enumerate(parts)) / total
    empty = all(reward.verdict == "no-answer" for reward in rewards)
    return Reward(value, "no-answer" if empty else "scored", evidence, seconds, tokens)
