"""The parts of `ringflow bench pairwise` that need no model: what the judge is taught, and what the records say."""

from __future__ import annotations

import gzip
import json

import pytest

from components.artifacts.local import LocalContext
from components.data.schema import Message, PreferenceRecord
from components.rewards.pairwise import choice_of
from flows.bench.pairwise import _asked, _figures

CHOSEN, REJECTED = "hello bob, thanks.", "yo!"
PAIR = PreferenceRecord(
    id="1",
    source="here",
    prompt=(Message(role="user", content="h:bob tea"),),
    chosen=f"<think></think>{CHOSEN}",
    rejected=f"<think></think>{REJECTED}",
)


@pytest.mark.parametrize("verdict", ["A", "B"])
def test_the_judge_is_taught_the_question_that_the_reward_asks(verdict):
    record = _asked("x", PAIR, verdict)
    shown = record.prompt[1].content
    assert (shown.index(CHOSEN) < shown.index(REJECTED)) == (verdict == "A")
    assert choice_of(record.response) == verdict


def test_figures_of_what_a_stage_wrote_down(tmp_path):
    context = LocalContext(tmp_path, "rl", quiet=True)
    rollouts = context.output / "rollouts"
    rollouts.mkdir()

    def row(response, value, verdicts):
        games = [{"asked": True, "verdicts": {"judge": verdicts}}]
        return {"prompt_id": "p", "response": response, "reward": {"value": value, "evidence": {"games": games}}}

    rows = [row(CHOSEN, 1.0, ["A", "A"]), row(REJECTED, 0.0, ["B", "B"]), row("hi bob", None, ["A", "B"])]
    text = "".join(json.dumps(entry) + "\n" for entry in rows)
    (rollouts / "rewards-000001.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (rollouts / "judge.jsonl").write_text(json.dumps({"messages": [1, 2]}) + "\n" + json.dumps({"messages": [1] * 4}))
    context.metrics({"time/reward_share": 0.25}, 1)
    figures = {
        name: figure.value for name, figure in _figures(context, {"p": {"rubric": "reply", "name": "bob"}}).items()
    }
    assert figures["replies judged"] == 3
    assert figures["questions to the judge"] == 2
    assert figures["asked again, out of form"] == 1
    assert figures["orders that agree"] == pytest.approx(200 / 3)
    assert figures["pairs ordered as the hidden judge does"] == 100
    assert figures["rewards that failed"] == pytest.approx(100 / 3)
    assert figures["reward's share of a step"] == 25
