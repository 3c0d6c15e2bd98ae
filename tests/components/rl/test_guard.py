"""The guard as a state machine: what it answers to which metrics, for how long, and what it remembers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.recipe.rl import GuardConfig
from components.rl.guard import ENOUGH, WINDOW, Guard
from components.rl.mismatch import surprise_report
from flows.bench.guard import replay

FINE = {
    "mismatch/mean_abs_dlogp": 2e-3,
    "mismatch/mean_dlogp": 1e-5,
    "reward/error_fraction": 0.0,
    "reward/no_answer_fraction": 0.1,
    "rollout/truncated_fraction": 0.05,
    "sampling/surprise_errors": 0.3,
    "sampling/surprise_share": 0.01,
}
TRAINED = {"train/loss": 0.1, "train/grad_norm": 0.5, "policy/entropy": 0.2}


def used(dtype: str = "bfloat16", steps: int = ENOUGH, **config) -> Guard:
    """A guard that has seen clean steps."""
    guard = Guard(GuardConfig(**config), dtype)
    for _ in range(steps):
        assert guard.observe(FINE).action == "ok"
        assert guard.observe_update(TRAINED).action == "ok"
    return guard


def again(guard: Guard) -> Guard:
    """The guard after a resume."""
    other = Guard(guard.config, guard.dtype)
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    return other


@pytest.mark.parametrize(("dtype", "mean", "action"), [
    ("float32", 9e-4, "ok"), ("float32", 2e-3, "resync"), ("bfloat16", 2e-3, "ok"), ("bfloat16", 0.049, "ok"),
    ("bfloat16", 0.051, "resync"), ("bfloat16", float("nan"), "resync"), ("bfloat16", float("inf"), "resync"),
])  # fmt: skip
def test_the_bound_at_the_first_step_is_the_dtypes(dtype, mean, action):
    assert Guard(GuardConfig(), dtype).observe({"mismatch/mean_abs_dlogp": mean}).action == action


def test_a_jump_above_the_runs_own_past_is_seen_below_the_absolute_bound():
    assert used().observe(FINE | {"mismatch/mean_abs_dlogp": 0.009}).action == "ok"
    verdict = used().observe(FINE | {"mismatch/mean_abs_dlogp": 0.011})
    assert (verdict.action, verdict.cause) == ("resync", "numerics")


@pytest.mark.parametrize(("remaining", "loading", "metrics", "action", "cause"), [
    (2e-3, "", {}, "discard", "stale weights"),
    (0.04, "new experts change nothing", {}, "stop", "stale weights"),
    (0.9, "", {}, "stop", "stale weights"),
    (5.0, "", {"mismatch/mean_dlogp": -4.8}, "stop", "tokenizer"),
    (0.04, "", {}, "warn", "numerics"),
    (float("nan"), "", {}, "stop", "stale weights"),
])  # fmt: skip
def test_what_is_left_after_a_resync_names_the_cause(remaining, loading, metrics, action, cause):
    guard, seen = used(), FINE | {"mismatch/mean_abs_dlogp": 0.9} | metrics
    assert guard.observe(seen).action == "resync"
    verdict = guard.observe_resync(seen, remaining, loading)
    assert (verdict.action, verdict.cause) == (action, cause)
    assert f"Likely cause: {cause}" in verdict.diagnosis
    assert loading in verdict.diagnosis
    assert guard.calm == (action == "discard")


def test_weights_are_published_again_a_bounded_number_of_times():
    guard, seen = used(), FINE | {"mismatch/mean_abs_dlogp": 0.9}
    for _ in range(guard.config.resyncs):
        assert guard.observe(seen).action == "resync"
        assert guard.observe_resync(seen, 2e-3).action == "discard"
        guard = again(guard)
    verdict = guard.observe(seen)
    assert verdict.action == "stop"
    assert "after 2 re-syncs" in verdict.diagnosis


def test_numerics_that_a_resync_cannot_mend_warn_then_go_back_once_then_stop():
    guard, seen = used(), FINE | {"mismatch/mean_abs_dlogp": 0.04}
    assert guard.observe(seen).action == "resync"
    actions = [guard.observe_resync(seen, 0.04).action]
    for _ in range(2):
        guard = again(guard)
        actions.append(guard.observe(seen).action)
    assert actions == ["warn", "warn", "rollback"]
    guard.rolled_back()
    assert guard.calm
    assert guard.observe(FINE).action == "ok"
    assert guard.observe(seen).action == "resync"
    actions = [guard.observe_resync(seen, 0.04).action] + [guard.observe(seen).action for _ in range(2)]
    assert actions == ["warn", "warn", "stop"]


def test_violations_must_follow_each_other():
    guard = used()
    bad = FINE | {"reward/error_fraction": 0.5}
    for metrics in (bad, bad, FINE, bad, bad):
        assert guard.observe(metrics).action == ("ok" if metrics is FINE else "warn")
        assert guard.observe_update(TRAINED).action == "ok"
    verdict = again(guard).observe(bad)
    assert (verdict.action, verdict.cause) == ("stop", "verifier")
    assert "50.0% of the verifications failed" in verdict.diagnosis
    assert "3 steps in a row" in verdict.diagnosis


@pytest.mark.parametrize(("metrics", "cause"), [
    ({"train/grad_norm": 11.0}, "learning rate"),
    ({"policy/entropy": 0.9}, "learning rate"),
])  # fmt: skip
def test_updates_are_judged_by_the_runs_own_past(metrics, cause):
    guard = used(patience=2)
    assert guard.observe_update(TRAINED | metrics).cause == cause
    assert not guard.calm
    assert guard.observe(FINE).action == "ok"  # the other half of the step does not end the count
    assert guard.observe_update(TRAINED | metrics).action == "rollback"
    unused = Guard(GuardConfig())
    assert unused.observe_update(TRAINED | metrics).action == "ok"


def test_what_is_not_finite_goes_back_at_once_and_then_stops():
    guard = used()
    verdict = guard.observe_update(TRAINED | {"train/grad_norm": float("nan")})
    assert (verdict.action, verdict.cause) == ("rollback", "learning rate")
    assert guard.diverged("update 7: loss inf").action == "stop"
    assert Guard(GuardConfig(rollbacks=0)).diverged("update 7: loss inf").action == "stop"


@pytest.mark.parametrize(("metrics", "cause"), [
    ({"reward/no_answer_fraction": 0.97}, "tokenizer"),
    ({"rollout/truncated_fraction": 0.6}, "learning rate"),
    ({"sampling/surprise_errors": -9.0, "sampling/surprise_share": -0.3}, "sampling"),
])  # fmt: skip
def test_what_the_drawn_tokens_show(metrics, cause):
    verdict = used().observe(FINE | metrics)
    assert (verdict.action, verdict.cause) == ("warn", cause)


def test_stale_tokens_have_a_bound_of_their_own():
    guard = Guard(GuardConfig(patience=2), "bfloat16")
    learned = {
        "mismatch/mean_abs_dlogp": 0.3,
        "mismatch/fresh_mean_abs_dlogp": 1e-6,
        "mismatch/stale_mean_abs_dlogp": 0.4,
    }
    assert guard.observe(learned).action == "ok"
    assert guard.observe(learned | {"mismatch/fresh_mean_abs_dlogp": 0.6}).action == "resync"
    far = {"mismatch/mean_abs_dlogp": 0.7, "mismatch/stale_mean_abs_dlogp": 0.7}
    assert [guard.observe(far).action for _ in range(2)] == ["warn", "rollback"]


def test_a_guard_that_watches_never_acts_on_rollouts():
    guard = Guard(GuardConfig(mode="watch"), "bfloat16")
    for _ in range(10):
        assert guard.observe(FINE | {"mismatch/mean_abs_dlogp": 3.0}).action == "warn"
        assert guard.observe_update(TRAINED | {"train/grad_norm": 1e6}).action == "ok"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_no_alarm_over_200_steps_of_metrics_that_wander_as_clean_runs_do(seed, dtype):
    """Log-normal spread of a fifth and a drift of three over the run: wider than any recorded run (see below)."""
    rng, guard = np.random.default_rng(seed), Guard(GuardConfig(), dtype)
    level = 2e-3 if dtype == "bfloat16" else 2e-7
    for step in range(200):
        drift = 3 ** (step / 200)
        mean = level * drift * np.exp(0.2 * rng.standard_normal())
        metrics = FINE | {"mismatch/mean_abs_dlogp": mean, "sampling/surprise_errors": rng.standard_normal()}
        metrics |= {"reward/no_answer_fraction": float(np.clip(0.3 + 0.1 * rng.standard_normal(), 0, 1))}
        assert guard.observe(metrics).action == "ok"
        norm = 0.5 * drift * np.exp(0.5 * rng.standard_normal())
        entropy = 0.2 / drift * np.exp(0.2 * rng.standard_normal())
        assert guard.observe_update(TRAINED | {"train/grad_norm": norm, "policy/entropy": entropy}).action == "ok"
    assert guard.calm
    assert len(guard.state_dict()["past"]["mismatch"]) == WINDOW


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([1.0, 0.7]))
def test_surprise_tells_draws_from_their_log_probs(seed, temperature):
    """4,000 draws at a temperature, reported with the log-probs of temperature 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, (4000, 24))
    reported = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    drawn = np.argmax(logits / temperature + rng.gumbel(size=logits.shape), -1)
    entropies = -(np.exp(reported) * reported).sum(-1)
    metrics = surprise_report(reported[np.arange(len(drawn)), drawn], entropies)
    verdict = Guard(GuardConfig()).observe(metrics)
    assert verdict.action == ("ok" if temperature == 1.0 else "warn")
    assert verdict.cause == (None if temperature == 1.0 else "sampling")


def test_real_clean_runs_raise_no_alarm():
    """Every RL stage of three seeds of nano, and of smoke, as the tracker held them (flows/bench/guard.py)."""
    recorded = json.loads((Path(__file__).parent / "recorded" / "clean.json").read_text())
    assert sum(len(steps) for steps in recorded["runs"].values()) > 200
    said = {name: replay(steps, recorded["dtype"]) for name, steps in recorded["runs"].items()}
    assert {name: lines for name, lines in said.items() if lines} == {}
    # The same runs with an engine that rounds to fp8 from step 10 on are not silent for a step.
    for name, steps in recorded["runs"].items():
        if len(steps) > 10:
            broken = {step: dict(metrics) for step, metrics in steps.items()}
            for step in broken:
                if int(step) >= 10:
                    broken[step]["mismatch/mean_abs_dlogp"] = 0.012
            assert replay(broken, recorded["dtype"])[0][0] == 10, name
