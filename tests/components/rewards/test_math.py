"""The table of hand-checked pairs, through the whole scorer: real math-verify in its real process."""

from __future__ import annotations

import os

import pytest

from components.data.schema import Verifier
from components.rewards import verify_pool
from components.rewards.scorer import open_scorer
from components.rewards.types import RewardRequest
from components.rewards.verify_pool import VerifyPool
from tests.components.rewards.pairs import DIFFERENT, EQUAL, MISSED


def request(answer: str, reference: str) -> RewardRequest:
    verifier = Verifier(kind="math", reference={"answer": reference})
    return RewardRequest("r", "p", f"<think>\\boxed{{0}}</think>It is \\boxed{{{answer}}}.", verifier)


@pytest.fixture(scope="module")
def rewards():
    """Bombs get 1 s of processor time instead of 2: nothing else in the table needs as much."""
    pairs = [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in (*DIFFERENT, *MISSED)]
    with pytest.MonkeyPatch.context() as patch, open_scorer(verify_workers=2) as scorer:
        patch.setattr(verify_pool, "_PROCESSOR_S", 1)
        scored = scorer.score([request(answer, reference) for answer, reference, _ in pairs], deadline_s=30.0)
    return {(answer, reference): reward for (answer, reference, _), reward in zip(pairs, scored, strict=True)}


def test_the_table_is_large_enough():
    assert len(set(EQUAL)) + len(set(DIFFERENT)) >= 450
    assert not set(EQUAL) & set(DIFFERENT)


@pytest.mark.parametrize(("answer", "reference"), EQUAL)
def test_equal(rewards, answer, reference):
    assert rewards[answer, reference].value == 1.0, rewards[answer, reference]


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_different(rewards, answer, reference):
    assert rewards[answer, reference].value == 0.0, rewards[answer, reference]


@pytest.mark.parametrize(("answer", "reference"), MISSED)
def test_what_is_known_to_be_missed(rewards, answer, reference):
    """Should one of them come out right, move it to EQUAL."""
    assert rewards[answer, reference].value == 0.0


def test_injected_code_did_not_run(rewards):
    assert rewards
    assert not os.path.exists("/tmp/pwned")


def test_what_text_and_numbers_decide_asks_no_process(monkeypatch):
    monkeypatch.setattr(VerifyPool, "submit", None)
    batch = [request(str(n % 7), "3") for n in range(256)]
    with open_scorer() as scorer:
        assert sum(reward.value for reward in scorer.score(batch, deadline_s=5.0)) == 37
