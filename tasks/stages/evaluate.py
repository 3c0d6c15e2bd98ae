"""Stage `evaluate`: one model on every held-out benchmark of the corpus, on warm engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.schema import BenchmarkItem
from components.evaluation.report import write_report
from components.evaluation.runner import codec_for, evaluate
from components.evaluation.types import Evaluation
from components.failures import BadInput
from components.model.spec import spec_for
from components.model.tokenizer import check_tokenizer, contract, load_tokenizer
from components.rewards.scorer import RuleScorer
from tasks.hardware import borrow_engines
from tasks.stage import StageConfig

# Where a checkpoint artifact keeps its Hugging Face directory.
MODEL = "model"


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Inputs: `model` (checkpoint), `corpus`. Output: items.jsonl, scores.json, report.html."""
    directory = context.fetch(inputs["model"], MODEL)
    benchmarks = read_benchmarks(context.fetch(inputs["corpus"], "benchmarks"))
    tokenizer = load_tokenizer(directory)
    check_tokenizer(tokenizer, load_tokenizer(config.model.tokenizer), where=str(directory))
    spec = spec_for(config.model)
    section = config.section
    promise = contract(tokenizer, spec, section.engine_dtype)
    scorer = RuleScorer()
    try:
        with borrow_engines(config.model, section.engine_dtype, context.execution) as engines:
            checksum = engines.load_directory(directory)
            evaluation = evaluate(
                engines,
                codec_for(tokenizer, spec.max_position_embeddings),
                benchmarks,
                section,
                scorer,
                context,
                settings=promise.model_dump()
                | {"stage": inputs["model"].stage, "model": inputs["model"].fingerprint, "weights_sha256": checksum},
            )
    finally:
        scorer.close()
    evaluation.write(context.output)
    page = write_report(evaluation, context.output / "report.html", f"{inputs['model'].stage} on held-out benchmarks")
    context.attach(page, "evaluation.html")
    context.metrics(metrics(evaluation), step=0)
    return StageResult(summary=summary(evaluation))


def read_benchmarks(directory: Path) -> dict[str, list[BenchmarkItem]]:
    """Benchmark name -> items, from `<name>.jsonl` files, names in order.

    Raises:
        BadInput: no benchmark, or a line is not a BenchmarkItem; names file, line and field.
    """
    from pydantic import ValidationError

    benchmarks: dict[str, list[BenchmarkItem]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        items = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                items.append(BenchmarkItem.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"])) or "record"
                raise BadInput(first["msg"], where=f"{path}:{number}: {field}") from error
        benchmarks[path.stem] = items
    if not benchmarks:
        raise BadInput("the corpus has no benchmark", where=str(directory), remedy="Give corpus.benchmarks")
    return benchmarks


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
