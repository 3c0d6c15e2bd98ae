"""Stage `evaluate`: one model on every held-out benchmark of the corpus, on warm engines."""

from __future__ import annotations

from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_benchmarks
from components.evaluation.report import write_report
from components.evaluation.runner import evaluate
from components.evaluation.sampler import codec_for
from components.evaluation.types import Evaluation
from components.model.spec import spec_for
from components.model.tokenizer import check_tokenizer, contract, load_tokenizer
from components.recipe.evaluation import EvaluationConfig
from components.rewards.scorer import open_scorer
from components.rollout.group import warm_engines
from tasks.stage import StageConfig

# Where a checkpoint artifact keeps its Hugging Face directory.
MODEL = "model"


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Inputs: `model` (checkpoint), `corpus`. Output: items.jsonl, scores.json, report.html."""
    section: EvaluationConfig = config.section
    directory = context.fetch(inputs["model"], MODEL)
    benchmarks = read_benchmarks(context.fetch(inputs["corpus"], "benchmarks").parent)
    tokenizer, spec = load_tokenizer(directory), spec_for(config.model)
    check_tokenizer(tokenizer, load_tokenizer(config.model.tokenizer), where=str(directory))
    engines = warm_engines(config.model, section.engine_dtype, context.execution)
    settings = {
        **contract(tokenizer, spec, section.engine_dtype).model_dump(),
        "stage": inputs["model"].stage,
        "model": inputs["model"].fingerprint,
        "weights_sha256": engines.load_directory(directory),
    }
    codec = codec_for(tokenizer, spec.max_position_embeddings)
    with open_scorer() as scorer:
        evaluation = evaluate(engines, codec, benchmarks, section, scorer, context, settings)
    evaluation.write(context.output)
    page = write_report(evaluation, context.output / "report.html", f"{inputs['model'].stage} on held-out benchmarks")
    context.attach(page, "evaluation.html")
    context.metrics(metrics(evaluation), step=0)
    return StageResult(summary=summary(evaluation))


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
            f"benchmark/{name}/errors": score.errors / score.answers,
            f"benchmark/{name}/tokens": score.mean_tokens,
        }
    return values


def summary(evaluation: Evaluation) -> dict[str, float | int | str]:
    """avg@k per benchmark and overall, rounded for reading, and what they rest on."""
    scores = {name: round(score.avg.value, 4) for name, score in evaluation.benchmarks.items()}
    whole = evaluation.overall
    return scores | {
        "overall": round(whole.avg.value, 4),
        "samples": whole.samples,
        "items": whole.items,
        "errors": whole.errors,
        "truncated": whole.truncated,
    }
