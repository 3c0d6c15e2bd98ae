"""Stage `evaluate`: one model on every held-out benchmark of the corpus, on warm engines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_benchmarks
from components.evaluation.flagged import Compared, compare, read_flagged, read_searched, table, write_compared
from components.evaluation.grading import open_grading
from components.evaluation.report import boards, write_report
from components.evaluation.runner import evaluate
from components.evaluation.sampler import codec_for
from components.evaluation.types import Evaluation
from components.model.spec import extended, spec_for
from components.model.tokenizer import check_tokenizer, contract, load_tokenizer
from components.recipe.evaluation import EvaluationConfig
from components.rollout.group import warm_engines
from tasks.stage import StageConfig
from tasks.stages.benchmarks import files_of, keep_files

# Where a checkpoint artifact keeps its Hugging Face directory.
MODEL = "model"
COUNTS = "decontamination.json"


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Inputs: `model` (checkpoint), `corpus`, and `contamination` (clean corpus) where the model was trained on one.

    Output: items.jsonl, scores.json, report.html, and flagged.json: scores with and without flagged items.
    """
    section: EvaluationConfig = config.section
    directory = context.fetch(inputs["model"], MODEL)
    standard = inputs["corpus"].stage == "benchmarks"  # of a recipe's corpus only a part is needed
    corpus = context.fetch(inputs["corpus"]) if standard else context.fetch(inputs["corpus"], "benchmarks").parent
    benchmarks, files = read_benchmarks(corpus), files_of(corpus)
    tokenizer, spec = load_tokenizer(directory), extended(spec_for(config.model), section.yarn_factor)
    check_tokenizer(tokenizer, load_tokenizer(config.model.tokenizer), where=str(directory))
    engines = warm_engines(config.model, section.engine_dtype, context.execution, yarn_factor=section.yarn_factor)
    settings = {
        **contract(tokenizer, spec, section.engine_dtype).model_dump(),
        "stage": inputs["model"].stage,
        "model": inputs["model"].fingerprint,
        "weights_sha256": engines.load_directory(directory),
    }
    codec = codec_for(tokenizer, spec.max_position_embeddings)
    with ExitStack() as held:
        items = [item for members in benchmarks.values() for item in members]
        record = context.output / "judge.jsonl"
        grading = open_grading(held, items, section.judge, context.execution, files, record)
        evaluation = evaluate(engines, codec, benchmarks, section, grading, context, settings, files=files)
    evaluation.write(context.output)
    keep_files(files, context.output)
    compared: dict[str, Compared] = {}
    shown = boards(evaluation, files)
    if "contamination" in inputs:
        counts = context.fetch(inputs["contamination"], COUNTS)
        compared = compare(evaluation, read_flagged(counts))
        write_compared(context.output / "flagged.json", compared)
        searched = read_searched(counts)
        shown += table(compared, [name for name in evaluation.benchmarks if name not in searched])
    title = f"{inputs['model'].stage} on {'standard' if standard else 'held-out'} benchmarks"
    page = write_report(evaluation, context.output / "report.html", title, shown)
    context.attach(page, "evaluation.html")
    context.metrics(metrics(evaluation), step=0)
    return StageResult(summary=summary(evaluation) | _without(compared))


def _without(compared: Mapping[str, Compared]) -> dict[str, float]:
    """Scores without flagged items, for the table of scores; nothing when none is flagged."""
    return {
        f"{name} unflagged": round(found.without.value, 4)
        for name, found in compared.items()
        if found.without is not None
    }


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """Tracker names, which may not hold `@`: benchmark/<name>/avg, low, high, pass, and shares of what failed."""
    values: dict[str, float] = {}
    for name, score in {**evaluation.benchmarks, "overall": evaluation.overall}.items():
        values |= {
            f"benchmark/{name}/avg": score.avg.value,
            f"benchmark/{name}/low": score.avg.low,
            f"benchmark/{name}/high": score.avg.high,
            f"benchmark/{name}/pass": score.pass_at[max(score.pass_at)],
            f"benchmark/{name}/truncated": score.truncated / score.answers,
            f"benchmark/{name}/no_answer": score.no_answer / score.answers,
            f"benchmark/{name}/refused": score.refused / score.answers,
            f"benchmark/{name}/judge_failed": score.judge_failed / score.answers,
            f"benchmark/{name}/errors": score.errors / score.answers,
            f"benchmark/{name}/tokens": score.mean_tokens,
        }
    for name, found in evaluation.metrics.items():
        values |= {f"benchmark/{name}/{tracker_name(key)}": metric.value for key, metric in found.items()}
    return values


def tracker_name(text: str) -> str:
    """What MLflow accepts of a metric's name."""
    return "".join(character if character.isalnum() or character in "_-. /" else "_" for character in text)


def summary(evaluation: Evaluation) -> dict[str, float | int | str]:
    """avg@k per benchmark and overall, rounded for reading, and what they rest on."""
    scores = {name: round(score.avg.value, 4) for name, score in evaluation.benchmarks.items()}
    for name, found in evaluation.metrics.items():
        scores |= {f"{name} {key}": round(metric.value, 4) for key, metric in found.items()}
    whole = evaluation.overall
    return scores | {
        "overall": round(whole.avg.value, 4),
        "samples": whole.samples,
        "items": whole.items,
        "errors": whole.errors,
        "truncated": whole.truncated,
        **({"refused": whole.refused} if whole.refused else {}),
        **({"judge_failed": whole.judge_failed} if whole.judge_failed else {}),
    }
