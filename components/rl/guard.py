"""The guard: a pure state machine that reads a step's metrics and says what to do, with a diagnosis that names a cause.

    warn      something passed its bound; noted, training goes on
    resync    the engine's probabilities are not the trainer's: publish the weights again and compare once more
    discard   that helped: the engine held other weights; what it drew with them is not trained on
    rollback  a violation lasted `patience` steps, or an update was not finite: back to the last good checkpoint, once
    stop      what a rollback cannot mend, or came back after one

Causes are told apart by what they do to the numbers (docs/guard.md):

    stale weights   mean |dlogp| jumps and is gone after a re-sync, or stays above 0.2 nats if the engine loads wrongly
    tokenizer       the trainer finds the engine's tokens e^3 times less likely, or answers end to be readable at once
    numerics        mean |dlogp| jumps or creeps up by a few hundredths, with the right weights
    sampling        log-probs agree, but the tokens are more likely than a draw from them would be: they were drawn from
                    another distribution (raw in place of processed log-probs, a temperature, a top-p)
    learning rate   gradient norm, entropy or length leave what they were in the run's own past
    verifier        rewards are missing

Absolute bounds come from the engine's dtype: right weights differ by 1e-7 in float32 and 2e-3 in bfloat16 (FACTS 6);
trouble starts at 0.05 (arXiv 2510.18855, appendix C). Tokens of older weights are judged by a bound of their own: what
was learned since they were drawn is no fault of the engine. No clients and no clocks inside.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from components.recipe.rl import GuardConfig

Action = Literal["ok", "warn", "resync", "discard", "rollback", "stop"]
Cause = Literal["stale weights", "tokenizer", "numerics", "sampling", "learning rate", "verifier"]

# Mean |dlogp| of right weights stays three orders below the first in float32; a jump below the second is rounding.
LARGEST_MEAN = {"float32": 1e-3, "bfloat16": math.inf}
SMALLEST_JUMP = {"float32": 1e-4, "bfloat16": 5e-3}
# Weights rounded to fp8 or int4 differ by 0.01 to 0.1 (docs/icepop.md), stale experts by 0.5 to 0.9, another tokenizer
# by several nats. Above this, and there after a re-sync, it is no rounding: the run stops at once.
BROKEN_MEAN_ABS_DLOGP = 0.2
TOKENIZER_MEAN_DLOGP = -3.0
# A draw's surprise minus the entropy has mean 0; this many standard errors below is no draw from these probabilities.
# Only below: groups are trained on because a member deviated, which alone makes tokens look surprising.
SURPRISE_ERRORS, SURPRISE_SHARE = -6.0, -0.1
WINDOW, ENOUGH = 20, 5
MASS_UNREADABLE, MOSTLY_READABLE = 0.9, 0.5


@dataclass(frozen=True)
class Verdict:
    """action: what the controller does. cause and diagnosis: what was seen and why, empty when ok."""

    action: Action
    diagnosis: str = ""
    cause: Cause | None = None


@dataclass(frozen=True)
class _Seen:
    """A violation: its name, for counting how long it lasts; what was seen; the likely cause."""

    name: str
    text: str
    cause: Cause


class Guard:
    """Feed it the metrics of each step, in order; keep its state with the resume point."""

    def __init__(self, config: GuardConfig, engine_dtype: str = "float32") -> None:
        self.config, self.dtype = config, engine_dtype
        self.violations: dict[str, int] = {}
        self.resyncs = self.rollbacks = 0
        self._distrusted = False  # a re-sync did not help: no other until the mismatch is gone
        self._past: dict[str, deque[float]] = {}

    # ---- before an update

    def observe(self, metrics: Mapping[str, float]) -> Verdict:
        """The verdict on one step's rollouts, before they are trained on. Missing metrics are not judged."""
        seen = [*self._mismatch(metrics), *self._draws(metrics)]
        if self.config.mode == "watch":
            self._remember(metrics, seen)
            return self._warn(seen)
        wrong_engine = next((one for one in seen if one.name == "mismatch"), None)
        if wrong_engine is None:
            self._distrusted = False
        elif not self._distrusted:
            if self.resyncs < self.config.resyncs:
                self.resyncs += 1
                return Verdict("resync", wrong_engine.text, wrong_engine.cause)
            return Verdict("stop", f"{wrong_engine.text}, after {self.resyncs} re-syncs", wrong_engine.cause)
        return self._count(metrics, seen)

    def observe_resync(self, metrics: Mapping[str, float], remaining: float, loading: str = "") -> Verdict:
        """After a re-sync. remaining: mean |dlogp| of the same tokens, scored by the engine as it is now. loading: what
        was found wrong with how the engine loads weights (components.rl.resync)."""
        before = _fresh_mismatch(metrics)
        text = f"mean |log pi_train - log pi_infer| was {before:.3g} and is {remaining:.3g} after a re-sync"
        if remaining <= self.bound:
            text += ": the engine held other weights, a lost or damaged update"
            return Verdict("discard", f"{text}. Likely cause: stale weights", "stale weights")
        self._distrusted = True
        cause = _cause_of(metrics, remaining)
        if loading:
            cause, text = "stale weights", f"{text}, and {loading}"
        text = f"{text}. Likely cause: {_EXPLAINED[cause]}"
        if loading or not remaining <= BROKEN_MEAN_ABS_DLOGP:
            return Verdict("stop", text, cause)
        return self._count(metrics, [_Seen("mismatch", text, cause), *self._draws(metrics)])

    # ---- after an update

    def observe_update(self, metrics: Mapping[str, float]) -> Verdict:
        """The verdict on what an update did: finite, and within what this run is used to."""
        for name in ("train/loss", "train/grad_norm"):
            if name in metrics and not math.isfinite(metrics[name]):
                return self.diverged(f"{name} is {metrics[name]}")
        seen = []
        for name, factor in (("train/grad_norm", self.config.max_grad_norm_ratio),):
            usual, value = self._usual(name), metrics.get(name, 0.0)
            if usual is not None and value > factor * usual:
                seen.append(
                    _Seen(name, f"gradient norm {value:.3g}, {value / usual:.0f} times its median", "learning rate")
                )
        usual, entropy = self._usual("policy/entropy"), metrics.get("policy/entropy", 0.0)
        if usual is not None and entropy > max(self.config.max_entropy_ratio * usual, self.config.min_entropy_jump):
            seen.append(_Seen("entropy", f"entropy {entropy:.3g} nats, its median is {usual:.3g}", "learning rate"))
        if self.config.mode == "watch":
            self._remember(metrics, seen, ("train/grad_norm", "policy/entropy"))
            return self._warn(seen)
        return self._count(metrics, seen, ("train/grad_norm", "policy/entropy"), part="update")

    def diverged(self, what: str) -> Verdict:
        """The learner refused an update that was not finite."""
        text = f"{what}. Likely cause: {_EXPLAINED['learning rate']}"
        if self.config.mode == "watch":
            return Verdict("stop", text, "learning rate")
        return self._escalated(text, "learning rate")

    def rolled_back(self) -> None:
        """Call it after a rollback, on the guard whose state the checkpoint restored."""
        self.violations, self._distrusted = {}, False

    @property
    def bound(self) -> float:
        """Largest mean |dlogp| of the present weights: of the dtype, and not far above this run's own past."""
        bound = min(self.config.max_mean_abs_dlogp, LARGEST_MEAN[self.dtype])
        usual = self._usual("mismatch")
        if usual is not None:
            bound = min(bound, max(self.config.max_jump * usual, SMALLEST_JUMP[self.dtype]))
        return bound

    @property
    def calm(self) -> bool:
        """Nothing is wrong at present: a checkpoint taken now is a good one."""
        return not self.violations and not self._distrusted

    def state_dict(self) -> dict[str, Any]:
        return {
            "violations": dict(self.violations),
            "resyncs": self.resyncs,
            "rollbacks": self.rollbacks,
            "distrusted": self._distrusted,
            "past": {name: list(values) for name, values in self._past.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.violations = dict(state["violations"])
        self.resyncs, self.rollbacks = state["resyncs"], state["rollbacks"]
        self._distrusted = state["distrusted"]
        self._past = {name: deque(values, WINDOW) for name, values in state["past"].items()}

    # ---- inside

    def _mismatch(self, metrics: Mapping[str, float]) -> list[_Seen]:
        seen, mean, bound = [], _fresh_mismatch(metrics), self.bound
        if not mean <= bound:
            cause = _cause_of(metrics, mean)
            text = f"mean |log pi_train - log pi_infer| {mean:.3g} passes {bound:.3g}"
            seen.append(_Seen("mismatch", f"{text}. Likely cause: {_EXPLAINED[cause]}", cause))
        stale, bound = metrics.get("mismatch/stale_mean_abs_dlogp", 0.0), self.config.max_stale_mean_abs_dlogp
        if stale > bound:
            text = f"mean |log pi_train - log pi_infer| of tokens drawn by older weights {stale:.3g} passes {bound:g}"
            seen.append(_Seen("stale mismatch", f"{text} (staleness too high for the learning rate)", "learning rate"))
        errors, share = metrics.get("sampling/surprise_errors", 0.0), metrics.get("sampling/surprise_share", 0.0)
        if errors < SURPRISE_ERRORS and share < SURPRISE_SHARE:
            text = (
                f"drawn tokens are {-share:.0%} less surprising than draws from the engine's log-probs would be, "
                f"{-errors:.0f} standard errors"
            )
            seen.append(_Seen("sampling", f"{text}. Likely cause: {_EXPLAINED['sampling']}", "sampling"))
        return seen

    def _draws(self, metrics: Mapping[str, float]) -> list[_Seen]:
        seen = []
        errors, bound = metrics.get("reward/error_fraction", 0.0), self.config.max_reward_error_fraction
        if errors > bound:
            text = f"{errors:.1%} of the verifications failed, allowed {bound:.1%}"
            seen.append(_Seen("reward errors", f"{text}. Likely cause: {_EXPLAINED['verifier']}", "verifier"))
        usual, unreadable = self._usual("reward/no_answer_fraction"), metrics.get("reward/no_answer_fraction", 0.0)
        if usual is not None and usual < MOSTLY_READABLE and unreadable > MASS_UNREADABLE:
            text = f"{unreadable:.0%} of the responses hold no answer, {usual:.0%} did"
            seen.append(_Seen("no answers", f"{text}. Likely cause: {_EXPLAINED['tokenizer']}", "tokenizer"))
        usual, cut = self._usual("rollout/truncated_fraction"), metrics.get("rollout/truncated_fraction", 0.0)
        if usual is not None and cut > usual + self.config.max_truncated_rise:
            text = f"{cut:.0%} of the responses reach the length limit, {usual:.0%} did"
            seen.append(_Seen("length", f"{text}. Likely cause: {_EXPLAINED['learning rate']}", "learning rate"))
        return seen

    def _count(
        self,
        metrics: Mapping[str, float],
        seen: list[_Seen],
        names: tuple[str, ...] = ("mismatch", "reward/no_answer_fraction", "rollout/truncated_fraction"),
        part: str = "rollout",
    ) -> Verdict:
        """Counts how long each violation lasts; violations of the other part of the step keep their counts."""
        self._remember(metrics, seen, names)
        kept = {name: count for name, count in self.violations.items() if not name.startswith(f"{part}:")}
        now = {f"{part}:{one.name}": self.violations.get(f"{part}:{one.name}", 0) + 1 for one in seen}
        self.violations = kept | now
        lasting = [one for one in seen if self.violations[f"{part}:{one.name}"] >= self.config.patience]
        if not lasting:
            return self._warn(seen)
        text = f"{'; '.join(one.text for one in lasting)}, {self.config.patience} steps in a row"
        if any(one.cause in _NOT_UNDONE_BY_WEIGHTS for one in lasting):
            return Verdict("stop", text, lasting[0].cause)
        return self._escalated(text, lasting[0].cause)

    def _escalated(self, text: str, cause: Cause) -> Verdict:
        if self.rollbacks < self.config.rollbacks:
            self.rollbacks += 1
            return Verdict("rollback", text, cause)
        return Verdict(
            "stop", text + (f"; it came back after {self.rollbacks} rollbacks" if self.rollbacks else ""), cause
        )

    def _warn(self, seen: list[_Seen]) -> Verdict:
        return Verdict("warn", "; ".join(one.text for one in seen), seen[0].cause) if seen else Verdict("ok")

    def _usual(self, name: str) -> float | None:
        past = self._past.get(name, ())
        return median(past) if len(past) >= ENOUGH else None

    def _remember(
        self,
        metrics: Mapping[str, float],
        seen: list[_Seen],
        names: tuple[str, ...] = ("mismatch", "reward/no_answer_fraction", "rollout/truncated_fraction"),
    ) -> None:
        """The past holds steps without a violation only, so that trouble does not become the measure of trouble."""
        if seen:
            return
        values = dict(metrics)
        if "mismatch/mean_abs_dlogp" in metrics:
            values["mismatch"] = _fresh_mismatch(metrics)
        for name in names:
            if name in values:
                self._past.setdefault(name, deque(maxlen=WINDOW)).append(float(values[name]))


_EXPLAINED: Mapping[Cause, str] = {
    "stale weights": "stale weights (the engine holds or loads others: a lost update, packed experts, a damaged shard)",
    "tokenizer": "tokenizer (trainer, engine or verifier read other tokens than were written)",
    "numerics": "numerics (the engine's precision or kernels, or a learning rate that sharpens what they get wrong)",
    "sampling": "sampling (raw in place of processed log-probs, or a temperature or top-p that the trainer ignores)",
    "learning rate": "learning rate (too high, or too many updates on one batch)",
    "verifier": "verifier (sandbox or checker broken; failed ones are masked, never scored 0)",
}
# Earlier weights would be sampled from, or judged, in the same wrong way.
_NOT_UNDONE_BY_WEIGHTS: frozenset[Cause] = frozenset({"verifier", "tokenizer", "sampling", "stale weights"})


def _cause_of(metrics: Mapping[str, float], mean: float) -> Cause:
    if metrics.get("mismatch/mean_dlogp", 0.0) < TOKENIZER_MEAN_DLOGP:
        return "tokenizer"
    return "stale weights" if not mean <= BROKEN_MEAN_ABS_DLOGP else "numerics"  # before a re-sync: a guess by size


def _fresh_mismatch(metrics: Mapping[str, float]) -> float:
    """Mean |dlogp| of the tokens that the present weights drew: with older ones among them, what was learned since they
    were drawn is no fault of the engine. 0 when every token is older."""
    if "mismatch/stale_mean_abs_dlogp" in metrics:
        return metrics.get("mismatch/fresh_mean_abs_dlogp", 0.0)
    return metrics.get("mismatch/mean_abs_dlogp", 0.0)
