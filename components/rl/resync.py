"""Re-sync: give the engines their weights once more, compare again, and find what they do not read.

Same tokens, same trainer's log-probs, new weights in the engine: if the mismatch is gone, an update had been lost or
damaged. If it stays, each part of the weights is published at half its size in turn, and in the end all of it as it is:
a part that changes nothing in the engine's log-probs is one that it does not take up, and log-probs that do not come
back show a load that leaves something behind. vLLM's packed experts (FACTS 5) do either, as its memory happens to lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.rl.collect import Engines
from components.rollout.types import Sample

PARTS: Mapping[str, str] = {
    "embeddings": "word_embeddings",
    "attention": ".attention.query_key_value",
    "router": ".mlp.gate.weight",
    "experts": ".mlp.experts.",
    "shared experts": ".mlp.shared_experts.",
    "LM head": "lm_head",
}
# Enough to react to any part, few enough to be scored seven times.
PROBED = 16
# Rounding moves float32 log-probs by 1e-6; half of any part moves bfloat16's by more than this.
REACTION = 1e-5


@dataclass(frozen=True)
class Resynced:
    """remaining: mean |dlogp| after the weights were published again. loading: what is wrong with how the engines load,
    empty when nothing was found; only looked for when the mismatch stayed."""

    remaining: float
    loading: str = ""


def resync(
    engines: Engines,
    version: int,
    weights: Mapping[str, np.ndarray],
    samples: Sequence[Sample],
    old: Sequence[np.ndarray],
    bound: float,
) -> Resynced:
    """Publishes `version` again. old: the trainer's log-probs of the samples; bound: mean |dlogp| that is right."""
    engines.pause()
    engines.publish(version, weights)
    remaining = float(np.abs(np.concatenate(old) - _scored(engines, samples)).mean())
    if remaining <= bound:
        return Resynced(remaining)
    probed = samples[:PROBED]
    usual, unread = _scored(engines, probed), []
    for name, mark in PARTS.items():
        changed = {key: array / 2 if mark in key else array for key, array in weights.items()}
        if all(changed[key] is weights[key] for key in weights):
            continue
        engines.publish(version, changed)
        if np.abs(_scored(engines, probed) - usual).max() < REACTION:
            unread.append(name)
    engines.publish(version, weights)
    if unread:
        return Resynced(remaining, f"new {', '.join(unread)} change nothing in the engine")
    if np.abs(_scored(engines, probed) - usual).max() > REACTION:
        return Resynced(remaining, "the same weights loaded twice give other log-probs")
    return Resynced(remaining)


def _scored(engines: Engines, samples: Sequence[Sample]) -> np.ndarray:
    scored = engines.score([(sample.prompt + sample.tokens, len(sample.prompt)) for sample in samples])
    return np.concatenate([np.asarray(one, np.float64) for one in scored])
