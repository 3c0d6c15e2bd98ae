"""An evaluation as a log of Inspect (inspect-ai), whose viewer many teams use: `inspect view --log-dir DIR`.

The harness is our own all the same: answers come in large waves from engines that stay warm in Ray actors, with a seed
each, and are kept in the stage's resume area under its lease; Inspect samples one request after another through a model
API and resumes from its own log. What it does best, showing, it does with this file.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from components.evaluation.types import Answer, Evaluation

VALUES = {"correct": "C", "wrong": "I", "truncated": "I", "no-answer": "N", "refused": "N"}


def write_inspect_logs(evaluation: Evaluation, directory: Path, model: str) -> list[Path]:
    """One .eval file per benchmark. Answers without a verdict are left out of scores and shown as errors."""
    from inspect_ai.log import write_eval_log

    directory.mkdir(parents=True, exist_ok=True)
    by_benchmark: dict[str, list[Answer]] = defaultdict(list)
    for answer in evaluation.answers:
        by_benchmark[answer.benchmark].append(answer)
    paths = []
    for name, answers in by_benchmark.items():
        path = directory / f"{name.replace(':', '-')}.eval"
        write_eval_log(_log(name, answers, evaluation, model), str(path))
        paths.append(path)
    return paths


def _log(name: str, answers: list[Answer], evaluation: Evaluation, model: str):
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalScore, EvalSpec

    score = evaluation.benchmarks[name]
    items = list(dict.fromkeys(answer.item for answer in answers))
    metrics = {
        f"avg@{score.samples}": EvalMetric(name=f"avg@{score.samples}", value=score.avg.value),
        "low": EvalMetric(name="low", value=score.avg.low),
        "high": EvalMetric(name="high", value=score.avg.high),
        **{key: EvalMetric(name=key, value=metric.value) for key, metric in evaluation.metrics.get(name, {}).items()},
    }
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=name,
            dataset=EvalDataset(name=name, samples=len(items), sample_ids=items),
            model=model,
            config=EvalConfig(epochs=score.samples),
            metadata={key: str(value) for key, value in evaluation.settings.items()},
        ),
        results=EvalResults(
            total_samples=len(answers),
            completed_samples=len(answers) - score.errors - score.judge_failed,
            scores=[EvalScore(name="ringflow", scorer="ringflow", metrics=metrics)],
        ),
        samples=[_sample(answer, model) for answer in answers],
    )


def _sample(answer: Answer, model: str):
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    judged = answer.value is not None
    value = VALUES.get(answer.outcome, answer.value) if judged else None
    return EvalSample(
        id=answer.item,
        epoch=answer.sample + 1,
        input=answer.prompt,
        target=answer.reference,
        messages=[ChatMessageUser(content=answer.prompt), ChatMessageAssistant(content=answer.response)],
        output=ModelOutput.from_content(
            model=model, content=answer.response, stop_reason="max_tokens" if answer.finish == "length" else "stop"
        ),
        scores={"ringflow": Score(value=value, answer=answer.response, explanation=answer.outcome)} if judged else {},
        metadata={"domain": answer.domain, "family": answer.family, "level": answer.level, "seed": answer.seed,
                  "evidence": answer.evidence},
        error=None if judged else EvalError(message=str(answer.evidence), traceback="", traceback_ansi=""),
    )  # fmt: skip
