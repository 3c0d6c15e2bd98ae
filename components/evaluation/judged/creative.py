"""Creative Writing v3: a judge scores each piece from 0 to 20 on the criteria of the benchmark's own file.

Criteria in the file `negative` are turned (20 - score). A piece's score is the mean of its criteria, the benchmark's
the mean of all pieces, shown in percent (the published scale, 0 to 100). A score above 20 is not one and is ignored, as
creative-writing-bench's core/scoring.py does; a reply with fewer than half of the criteria is none at all. The seed of
a piece is chosen by the number of its sample, so that samples of one prompt differ as the benchmark asks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from components.data.schema import BenchmarkItem, Message
from components.evaluation.judged import duels
from components.evaluation.statistics import mean_interval
from components.evaluation.types import Answer, Metric
from components.failures import BadInput
from components.rewards.types import Reward, RewardRequest

if TYPE_CHECKING:
    from components.evaluation.judged.scorer import Judge, Rule

HIGHEST = 20.0
MAX_NEW_TOKENS = 4096
_SCORE = re.compile(r"^[\s*#\-]*(.+?)\s*\**\s*:\s*\**\s*(?:Score\s+)?\[?\s*(-?\d+(?:\.\d+)?)\s*\]?", re.MULTILINE)


def rule(files: Mapping[str, Path]) -> Rule:
    from components.evaluation.judged.scorer import needed_file

    name = "creative-writing-v3"
    criteria = _lines(needed_file(files, "criteria", name, "its criteria, one a line"))
    negative = frozenset(_lines(files["negative"])) if "negative" in files else frozenset()
    template = needed_file(files, "prompt", name, "its judging prompt").read_text()
    for field in ("{writing_prompt}", "{test_model_response}"):
        if field not in template:
            raise BadInput(f"the judging prompt has no {field}", where=str(files["prompt"]))

    rivals, pairwise = _rivals(files)

    def judge_piece(request: RewardRequest, answer: str, judge: Judge) -> Reward:
        if not answer:
            lost = _duels(request, answer, judge, rivals, pairwise)
            return Reward(0.0, "no-answer", {"duels": lost} if lost else {})
        asked = template
        fields = {
            "writing_prompt": request.prompt,
            "test_model_response": answer,
            "creative_writing_criteria": "\n".join(f"- {line}" for line in criteria),
            "lower_is_better_criteria": ", ".join(sorted(negative)),
        }
        for field, value in fields.items():
            asked = asked.replace(f"{{{field}}}", value)
        scores, _ = judge.verdict([{"role": "user", "content": asked}], reader(criteria), MAX_NEW_TOKENS)
        value = piece_score(scores, negative)
        evidence: dict[str, Any] = {"criteria": scores}
        if fought := _duels(request, answer, judge, rivals, pairwise):
            evidence["duels"] = fought
        return Reward(value / HIGHEST, "scored", evidence)

    return judge_piece


def _rivals(files: Mapping[str, Path]) -> tuple[list[duels.Rival], str]:
    """(pieces of rated models, the prompt they are judged with); neither or both files are there."""
    given = [name for name in ("rivals", "pairwise") if name in files]
    if not given:
        return [], ""
    if len(given) == 1:
        raise BadInput(
            "rivals and the prompt they are judged with belong together",
            where=f"file creative-writing-v3.{given[0]}",
            remedy="Give both: --file creative-writing-v3.rivals=PATH --file creative-writing-v3.pairwise=PATH",
        )
    template = files["pairwise"].read_text()
    for field in duels.FIELDS:
        if field not in template:
            raise BadInput(f"the pairwise prompt has no {field}", where=str(files["pairwise"]))
    return duels.read_rivals(files["rivals"]), template


def _duels(
    request: RewardRequest, answer: str, judge: Judge, rivals: Sequence[duels.Rival], template: str
) -> list[dict[str, Any]]:
    prompt, sample = str(request.verifier.reference.get("prompt_id", "")), request.request_id.rpartition("|")[2]
    if prompt in duels.LEFT_OUT:
        return []
    fought = []
    for rival in rivals:
        theirs = rival.piece(prompt, int(sample) if sample.isdigit() else 0)
        if theirs is not None:
            marks = duels.duel(template, request.prompt, answer, theirs, judge, MAX_NEW_TOKENS)
            fought.append({"rival": rival.model, "rating": rival.rating, "ours": marks[0], "theirs": marks[1]})
    return fought


def seeded(item: BenchmarkItem, sample: int) -> tuple[Message, ...]:
    """The prompt with the seed of this sample: samples of one prompt take its seeds in turn."""
    seeds, template = item.verifier.reference["seeds"], item.verifier.reference["template"]
    if not seeds:
        return item.prompt
    return (Message(role="user", content=template.replace("<SEED>", seeds[sample % len(seeds)]).strip()),)


def reader(criteria: Sequence[str]) -> Callable[[str], dict[str, float] | None]:
    """A reader of replies: criterion -> score, None when fewer than half of the criteria have one."""
    known = {criterion.casefold(): criterion for criterion in criteria}

    def read(text: str) -> dict[str, float] | None:
        scores = {}
        for name, value in _SCORE.findall(text):
            criterion = known.get(name.strip(" *").casefold())
            if criterion is not None and float(value) <= HIGHEST:
                scores[criterion] = float(value)
        return scores if len(scores) * 2 >= len(criteria) else None

    return read


def piece_score(scores: Mapping[str, float], negative: frozenset[str]) -> float:
    """0 to 20."""
    turned = [HIGHEST - value if name in negative else value for name, value in scores.items()]
    return min(HIGHEST, max(0.0, fmean(value for value in turned if value <= HIGHEST)))


def metrics(answers: Sequence[Answer], confidence: float, files: Mapping[str, Path]) -> dict[str, Metric]:
    """rubric: the mean over pieces; an unfinished or empty piece counts 0. Elo: where there were rivals."""
    pieces: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.value is not None:
            pieces[answer.item].append(answer.value)
    if not pieces:
        return {}
    found = mean_interval([fmean(values) for values in pieces.values()], 1, confidence)
    total = fmean(value for values in pieces.values() for value in values)
    fought = duels.elo(answers, confidence)
    return {"rubric": Metric(total, found.low, found.high)} | ({"Elo": fought} if fought is not None else {})


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise BadInput("there is no such file", where=str(path))
    return [line.strip(" -\t") for line in path.read_text().splitlines() if line.strip(" -\t")]
