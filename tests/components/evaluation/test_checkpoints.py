"""Choosing a checkpoint by its answers: the better one, with few answers, and after a kill without asking twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.artifacts.local import LocalContext
from components.data.schema import BenchmarkItem
from components.evaluation.checkpoints import Contest, record
from components.failures import BadInput, InfrastructureError
from components.recipe.evaluation import SelectConfig
from components.recipe.execution import ExecutionConfig
from tests.components.evaluation.fakes import CODEC, ExactScorer, KnownEngines, item

CONFIG = SelectConfig(items=200, batch=20, samples=2, max_new_tokens=16)
RECORDS: list[BenchmarkItem] = [item(number) for number in range(300)]


@dataclass
class Checkpoints(KnownEngines):
    """Engines whose loaded checkpoint `300` answers nearly all, `200` half, and `100` a tenth of the items."""

    loaded: str = ""
    drawn: list[tuple[str, str]] = field(default_factory=list)

    def load_directory(self, directory: Path) -> str:
        self.loaded = directory.name
        return ""

    def generate(self, requests, sampling, deadline_s):
        chance = {"100": 1, "200": 5, "300": 9}[self.loaded]
        self.right = lambda request: int(request.partition("-")[2].partition("|")[0]) % 10 < chance
        found = super().generate(requests, sampling, deadline_s)
        self.drawn += [(self.loaded, request.request_id) for request in requests]
        return found


def contest(root: Path, engines: Checkpoints, scorer=None, config: SelectConfig = CONFIG) -> Contest:
    context = LocalContext(root, "select", seed=3, execution=ExecutionConfig(engines=1, max_num_seqs=64), quiet=True)
    candidates = {step: Path(step) for step in ("300", "200", "100")}
    return Contest(context, engines, CODEC, scorer or ExactScorer(), candidates, RECORDS, config)


def test_the_best_is_found_with_few_answers_and_logged(tmp_path: Path) -> None:
    found = contest(tmp_path, Checkpoints(lambda _: True)).run()
    assert found.best == "300"
    assert found.asked < 0.5 * found.all
    told = record(found, CONFIG)
    assert (told["chosen"], told["alpha"]) == ("300", 0.05)
    assert [row["candidate"] for row in told["candidates"]] == ["300", "200", "100"]
    assert "behind after" in told["reason"]
    assert told["looks"][0]["items"] == 20


def test_all_candidates_get_the_same_prompts_with_the_same_seeds(tmp_path: Path) -> None:
    engines = Checkpoints(lambda _: True)
    contest(tmp_path, engines).run()
    first = [{(r.request_id, r.seed) for r in call} for call in engines.calls[:3]]
    assert first[0] == first[1] == first[2]
    assert len(first[0]) == 40


def test_a_killed_selection_asks_nothing_twice(tmp_path: Path) -> None:
    whole = contest(tmp_path / "whole", Checkpoints(lambda _: True)).run()
    killed = Checkpoints(lambda _: True, die_after_calls=2)
    with pytest.raises(KeyboardInterrupt):
        contest(tmp_path / "killed", killed).run()
    again = Checkpoints(lambda _: True)
    assert contest(tmp_path / "killed", again).run() == whole
    drawn = [*killed.drawn, *again.drawn]
    assert len(killed.drawn) == 80
    assert len(drawn) == len(set(drawn))


def test_what_cannot_be_scored_is_no_zero(tmp_path: Path) -> None:
    scorer = ExactScorer(broken=lambda request: True)
    with pytest.raises(InfrastructureError, match="could not be scored"):
        contest(tmp_path, Checkpoints(lambda _: True), scorer).run()


def test_without_candidates_or_room_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"leaves 300 tokens.*select.max_new_tokens"):
        contest(tmp_path, Checkpoints(lambda _: True), config=CONFIG.model_copy(update={"max_new_tokens": 300}))
    context = LocalContext(tmp_path, "select", quiet=True)
    with pytest.raises(BadInput, match=r"sft.checkpoints"):
        Contest(context, Checkpoints(lambda _: True), CODEC, ExactScorer(), {}, RECORDS, CONFIG)
