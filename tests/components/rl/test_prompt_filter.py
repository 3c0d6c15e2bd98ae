"""Retirement and curriculum of the prompt ledger: what is drawn, what is not drawn any more, and that it is counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.failures import BadInput
from components.recipe.rl import PromptFilter
from components.rewards.types import Reward
from components.rl.batch import Group, pass_rate
from components.rl.ledger import PromptLedger, PromptMixture


def answered(ledger: PromptLedger, number: int, rates: list[float]) -> list[int]:
    drawn = ledger.draw(number)
    for prompt in drawn:
        ledger.settle(prompt, "trained" if 0 < rates[prompt] < 1 else "filtered", rates[prompt])
    ledger.check()
    return drawn


@settings(max_examples=60, deadline=None)
@given(
    rates=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=20),
    after=st.integers(1, 3),
    draws=st.lists(st.integers(1, 9), max_size=25),
    cut=st.integers(0, 25),
    curriculum=st.sampled_from(["shuffled", "pass-rate"]),
)
def test_the_always_and_never_solved_are_drawn_so_often_and_no_more(rates, after, draws, cut, curriculum):
    rates = [*rates, 0.5]  # one is never retired
    kind = PromptFilter(retire_after=after, curriculum=curriculum)
    ledger, seen = PromptLedger(len(rates), 3, kind), []
    for step, number in enumerate(draws):
        if step == cut:
            state = json.loads(json.dumps(ledger.state_dict()))
            twin = PromptLedger(len(rates), 3, kind)
            twin.load_state_dict(state)
            assert twin.state_dict() == ledger.state_dict()
            ledger = twin
        seen += answered(ledger, number, rates)
    assert ledger.drawn == len(seen) == sum(ledger.outcomes.values())
    for prompt, rate in enumerate(rates):
        if rate in (0.0, 1.0):
            # What is in flight when it is retired still comes back: at most one draw too many.
            assert seen.count(prompt) <= after + max(draws, default=0)
            assert (prompt in ledger.retired) == (seen.count(prompt) >= after)
        else:
            assert prompt not in ledger.retired
    if ledger.retired:
        assert set(ledger.retired.values()) <= {"always", "never"}


def test_one_answer_of_the_other_kind_ends_a_streak():
    ledger = PromptLedger(2, 0, PromptFilter(retire_after=2))
    for rate in (1.0, 0.5, 1.0, 0.0, 0.0):
        for prompt in ledger.draw(2):
            ledger.settle(prompt, "filtered", rate)
    assert ledger.retired == {0: "never", 1: "never"}
    with pytest.raises(BadInput, match="all 2 prompts are retired"):
        ledger.draw(1)


def test_from_the_second_pass_on_half_solved_prompts_come_first():
    rates = [0.0, 0.125, 0.5, 0.875, 1.0, 0.4]
    ledger = PromptLedger(6, 1, PromptFilter(curriculum="pass-rate"))
    first = answered(ledger, 6, rates)
    second = answered(ledger, 6, rates)
    assert sorted(first) == sorted(second) == list(range(6))
    assert second[:2] == [2, 5]
    assert set(second[2:4]) == {1, 3}
    assert set(second[4:]) == {0, 4}


def test_an_unanswered_prompt_stands_between_the_half_solved_and_the_hopeless():
    ledger = PromptLedger(3, 1, PromptFilter(curriculum="pass-rate"))
    rates = {0: 0.5, 1: 0.0}
    for prompt in ledger.draw(3):
        ledger.settle(prompt, "failed" if prompt == 2 else "trained", rates.get(prompt))
    assert ledger.draw(3) == [0, 2, 1]


def test_a_mixture_counts_what_its_parts_retired():
    mixture = PromptMixture([(range(4), 0.5), (range(4, 8), 0.5)], 0, PromptFilter(retire_after=1))
    for prompt in mixture.draw(8):
        mixture.settle(prompt, "filtered", 1.0 if prompt == 5 else 0.0 if prompt == 2 else 0.5)
    assert mixture.retired == {"always": 1, "never": 1}
    assert 5 not in mixture.draw(6)


def test_pass_rates_are_of_right_and_wrong_answers_only():
    def group(*verdicts):
        values = {"correct": 1.0, "wrong": 0.0, "no-answer": 0.0, "scored": 0.7, "error": None}
        return Group(0, (), tuple(Reward(values[verdict], verdict) for verdict in verdicts))

    assert pass_rate(group("correct", "wrong", "no-answer", "correct")) == 0.5
    assert pass_rate(group("correct", "scored")) is None
    assert pass_rate(group("correct", "error")) is None
