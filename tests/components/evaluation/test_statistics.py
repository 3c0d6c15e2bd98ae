"""Known values and properties of the evaluation's statistics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.statistics import (
    compare,
    mean_interval,
    minimum_detectable_difference,
    pass_at_k,
    ratio_interval,
)

Z2 = 1.959963984540054**2


@pytest.mark.parametrize(
    ("n", "correct", "k", "value"), [(5, 0, 3, 0.0), (5, 5, 1, 1.0), (4, 1, 2, 0.5), (10, 3, 5, 11 / 12)]
)
def test_pass_at_k_known_values(n, correct, k, value):
    assert pass_at_k(n, correct, k) == pytest.approx(value, abs=1e-12)


@given(st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_interval_is_wilson_for_one_answer_per_item_and_at_the_edges():
    nothing = mean_interval([0.0] * 20, samples=8)
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert nothing.high == pytest.approx(Z2 / (20 + Z2))
    everything = mean_interval([1.0] * 20, samples=8)
    assert (everything.value, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(20 / (20 + Z2))
    # Wilson's interval for 15 of 50, from its closed form
    score = mean_interval([1.0] * 15 + [0.0] * 35, samples=1)
    assert (score.low, score.high) == pytest.approx((0.1910, 0.4375), abs=1e-3)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=150, deadline=None)
def test_interval_contains_its_value_stays_inside_and_ignores_order(counts, confidence):
    means = [count / 8 for count in counts]
    estimate = mean_interval(means, samples=8, confidence=confidence)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high > estimate.low
    assert estimate == mean_interval(means[::-1], samples=8, confidence=confidence)
    mirrored = mean_interval([1 - mean for mean in means], samples=8, confidence=confidence)
    assert mirrored.low == pytest.approx(1 - estimate.high, abs=1e-9)
    assert mirrored.high == pytest.approx(1 - estimate.low, abs=1e-9)


@pytest.mark.parametrize("level", [0.03, 0.3, 0.8])
def test_interval_covers_the_truth_when_answers_of_an_item_are_correlated(level):
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(600):
        difficulty = rng.beta(level * 0.8, (1 - level) * 0.8, size=60)
        estimate = mean_interval(rng.binomial(8, difficulty) / 8, samples=8)
        covered += estimate.low <= level <= estimate.high
    assert 0.92 <= covered / 600 <= 0.99


def test_paired_comparison_counts_flips_and_sees_through_item_difficulty():
    before = {f"i{n}": n % 2 * 1.0 for n in range(40)}
    same = compare(before, before, samples=4)
    assert same.difference == 0
    assert same.low < 0 < same.high
    assert same.verdict == "undecided"
    assert (same.gained, same.lost) == (0, 0)
    after = before | {f"i{n}": 1.0 for n in range(0, 20, 2)} | {"i1": 0.0}
    better = compare(before, after, samples=4)
    assert (better.gained, better.lost, better.items) == (10, 1, 40)
    assert better.difference == pytest.approx(9 / 40)
    assert better.verdict == "better"
    assert compare(after, before, samples=4).verdict == "worse"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_comparison_is_antisymmetric(pairs):
    before = {str(n): pair[0] / 4 for n, pair in enumerate(pairs)}
    after = {str(n): pair[1] / 4 for n, pair in enumerate(pairs)}
    there, back = compare(before, after, samples=4), compare(after, before, samples=4)
    assert there.low <= there.difference <= there.high
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert (back.gained, back.lost) == (there.lost, there.gained)


def test_a_share_of_unequal_items_covers_its_truth():
    """Puzzles of 4 to 30 cells, each cell right with the puzzle's own chance: 95 of 100 intervals hold the truth."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        wholes = rng.integers(4, 31, 60)
        parts = rng.binomial(wholes, rng.beta(2, 3, 60))
        found = ratio_interval(parts.tolist(), wholes.tolist())
        held += found.low <= 0.4 <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_a_share_of_equal_items_is_their_mean_and_nothing_right_proves_little():
    means = [0.25, 0.5, 1.0, 0.0]
    found = ratio_interval([4 * mean for mean in means], [4] * 4)
    assert found.value == mean_interval(means, 1).value
    assert ratio_interval([0, 0], [5, 9]).high == mean_interval([0.0, 0.0], 1).high
    with pytest.raises(ValueError, match="at least one item"):
        ratio_interval([], [])


def test_comparison_uses_only_shared_items_and_refuses_none():
    assert compare({"a": 1.0, "b": 0.0}, {"b": 1.0, "c": 0.0}, samples=1).items == 1
    with pytest.raises(ValueError, match="no item in common"):
        compare({"a": 1.0}, {"b": 1.0}, samples=1)


def test_detectable_difference_is_found_four_times_in_five():
    deviation, items = 0.4, 100
    step = minimum_detectable_difference(deviation, items)
    assert step == pytest.approx((1.959964 + 0.841621) * 0.04, rel=1e-4)
    rng = np.random.default_rng(3)
    found = sum(
        rng.normal(step, deviation, items).mean() - 1.96 * deviation / math.sqrt(items) > 0 for _ in range(2000)
    )
    assert 0.77 <= found / 2000 <= 0.83
