"""The best checkpoint of a training stage, by its answers to a part of the RL prompts; stops as soon as it is sure.

The rule of components.evaluation.select on real answers: every candidate gets the same prompts with the same seeds, a
batch at a time, and whoever is surely behind is not asked again. RL prompts, not benchmark items: choosing by a
benchmark would make its later score look better than the model is. What was scored is kept after every batch, so a
killed stage asks nothing twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Protocol

from components.artifacts.context import StageContext
from components.data.schema import RlRecord
from components.evaluation.runner import answer_seed, prompt_text
from components.evaluation.sampler import Codec, Draw, Drawing, Engines, EngineSampler
from components.evaluation.select import Selection, select_best
from components.failures import BadInput, InfrastructureError
from components.recipe.evaluation import SelectConfig
from components.rewards.types import RewardRequest, Scorer

KNOWN = "known.json"
MAX_ERROR_FRACTION = 0.02


class LoadingEngines(Engines, Protocol):
    def load_directory(self, directory: Path) -> str: ...


class Contest:
    """One selection at work. candidates: name -> Hugging Face directory, the preferred one of equals first.

    Raises:
        BadInput: there are no candidates, or no prompt of these domains leaves room for an answer.
    """

    def __init__(
        self,
        context: StageContext,
        engines: LoadingEngines,
        codec: Codec,
        scorer: Scorer,
        candidates: Mapping[str, Path],
        records: Sequence[RlRecord],
        config: SelectConfig,
    ) -> None:
        if not candidates:
            raise BadInput("the training stage kept no candidates", where="select", remedy="Raise sft.checkpoints")
        self._context, self._engines, self._scorer, self._config = context, engines, scorer, config
        self._sampler = EngineSampler(engines, codec, context.execution)
        self._candidates, self._loaded = dict(candidates), ""
        fitting = [
            record
            for record in records
            if record.domain in config.domains and self._sampler.room(record.prompt) >= config.max_new_tokens
        ]
        if not fitting:
            raise BadInput(
                f"no RL prompt of {', '.join(config.domains)} leaves {config.max_new_tokens} tokens for an answer",
                where="select",
                remedy="Lower select.max_new_tokens, or name other domains",
            )
        drawn = random.Random(f"select\0{context.seed}").sample(fitting, min(config.items, len(fitting)))
        self._items = {record.id: record for record in drawn}
        point = context.resume.latest()
        self._known: dict[str, dict[str, float | None]] = json.loads((point.path / KNOWN).read_text()) if point else {}
        self._errors = self._answers = 0

    def run(self) -> Selection:
        """Raises InfrastructureError when engines fail, or too many answers cannot be scored."""
        config = self._config
        return select_best(
            list(self._candidates), list(self._items), self._score, config.batch, config.samples, config.alpha
        )

    def _score(self, name: str, items: Sequence[str]) -> dict[str, float]:
        known = self._known.setdefault(name, {})
        if fresh := [item for item in items if item not in known]:
            self._context.check()
            known |= self._asked(name, fresh)
            self._keep()
        return {item: value for item in items if (value := known[item]) is not None}

    def _asked(self, name: str, items: Sequence[str]) -> dict[str, float | None]:
        config = self._config
        if self._loaded != name:
            self._engines.load_directory(self._candidates[name])
            self._loaded = name
        asked = [(item, sample) for item in items for sample in range(config.samples)]
        draws = [
            Draw(f"{item}|{k}", self._items[item].prompt, answer_seed(self._context.seed, "select", item, k))
            for item, k in asked
        ]
        drawn = self._sampler.draw(draws, Drawing(config.temperature, config.top_p, config.max_new_tokens))
        requests = [
            RewardRequest(
                one.request_id,
                prompt_text(self._items[item].prompt),
                one.text,
                self._items[item].verifier,
                one.finish == "length",
            )
            for (item, _), one in zip(asked, drawn, strict=True)
        ]
        values: dict[str, list[float]] = {item: [] for item in items}
        for (item, _), reward in zip(asked, self._scorer.score(requests, config.reward_timeout_s), strict=True):
            self._answers += 1
            if reward.value is None:
                self._errors += 1
            else:
                values[item].append(min(1.0, max(0.0, float(reward.value))))
        if self._errors > max(1.0, MAX_ERROR_FRACTION * self._answers):
            raise InfrastructureError(f"{self._errors} of {self._answers} answers could not be scored")
        return {item: fmean(found) if found else None for item, found in values.items()}

    def _keep(self) -> None:
        scored = sum(map(len, self._known.values()))
        directory = self._context.scratch / "known"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / KNOWN).write_text(json.dumps(self._known))
        self._context.resume.save(scored, directory, {"scored": scored})
        self._context.progress(scored, len(self._items) * len(self._candidates), "items at most")


def record(selection: Selection, config: SelectConfig) -> dict:
    """The content of selection.json."""
    means = {name: fmean(values.values()) if values else None for name, values in selection.scores.items()}
    return {
        "rule": "highest mean score on RL prompts, paired, stopped early (components.evaluation.select)",
        **config.model_dump(mode="json"),
        "chosen": selection.best,
        "reason": selection.reason,
        "asked": selection.asked,
        "all": selection.all,
        "candidates": [
            {"candidate": name, "mean": means[name], "items": len(values)} for name, values in selection.scores.items()
        ],
        "looks": [asdict(look) for look in selection.looks],
    }
