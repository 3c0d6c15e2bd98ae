"""Where one score comes from: the answers it is the mean of, the settings they were taken with, the model, the data.

The score is computed again from the stored answers, whose bytes are verified; a recorded score that differs is refused
with both values, so that what is explained is what was published.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.evaluation.scores import load_evaluation
from components.evaluation.types import Answer, Evaluation, Score
from components.failures import BadInput, IntegrityError
from components.lineage.graph import Graph, LineageNode, Source, lineage

OVERALL = "overall"
# Summaries round scores to four digits (stage evaluate).
ROUNDING = 0.5e-4 + 1e-9


@dataclass(frozen=True)
class Explanation:
    """name: benchmark, or `overall`. answers: those the score is made of. graph: the lineage of the evaluation.

    model: None for one that was asked over HTTP. benchmarks: the shards that the questions came from. trained_on: the
    shards of splits that the model's stages read.
    """

    node: LineageNode
    name: str
    score: Score
    answers: tuple[Answer, ...]
    settings: Mapping[str, Any]
    model: LineageNode | None
    graph: Graph
    benchmarks: tuple[Source, ...]
    trained_on: tuple[Source, ...]


def explain(store: Store, ref: ArtifactRef, name: str = OVERALL) -> Explanation:
    """Explains a score of an evaluation.

    Raises:
        BadInput: not an evaluation, or no such benchmark in it.
        IntegrityError: the published score is not the mean of the stored answers; both values are shown.
    """
    if ref.kind != "evaluation":
        raise BadInput(f"a {ref.kind} has no scores of its own", where=ref.uri, remedy="Name an evaluation")
    evaluation = load_evaluation(store.fetch(ref))
    name = name or OVERALL
    score = evaluation.overall if name == OVERALL else evaluation.benchmarks.get(name)
    if score is None:
        known = ", ".join([OVERALL, *evaluation.benchmarks])
        raise BadInput(f"{name} is no score of this evaluation", where=ref.uri, remedy=f"Scores: {known}")
    published = ref.summary.get(name)
    if isinstance(published, (int, float)) and abs(published - score.avg.value) > ROUNDING:
        raise IntegrityError(f"{ref.uri}: {name} was published as {published}, its answers give {score.avg.value:.6f}")
    graph = lineage(store, ref)
    node = graph.nodes[graph.root]
    model = graph.nodes[node.inputs["model"]] if "model" in node.inputs else None
    if model is not None:
        _same_model(evaluation, model)
    wanted = None if name == OVERALL else name
    return Explanation(
        node=node,
        name=name,
        score=score,
        answers=tuple(answer for answer in evaluation.answers if wanted in (None, answer.benchmark)),
        settings=evaluation.settings,
        model=model,
        graph=graph,
        benchmarks=tuple(s for s in graph.sources if s.split in evaluation.benchmarks and wanted in (None, s.split)),
        trained_on=tuple(s for s in graph.sources if s.split in _splits_read(graph)),
    )


def _same_model(evaluation: Evaluation, model: LineageNode) -> None:
    recorded = evaluation.settings.get("model")
    if recorded not in (None, model.ref.fingerprint):
        raise IntegrityError(
            f"the answers are of model {recorded}, but the evaluation's input is {model.ref.uri} "
            f"with fingerprint {model.ref.fingerprint}"
        )


def _splits_read(graph: Graph) -> set[str]:
    """Splits of the corpus that the stages behind the model opened; every split where that was not recorded."""
    every = {source.split for source in graph.sources}
    read: set[str] = set()
    for node in graph.nodes.values():
        if node.ref.kind not in ("checkpoint", "reward-model"):
            continue
        for name, uri in node.inputs.items():
            if graph.nodes[uri].ref.kind in ("corpus", "clean-corpus"):
                opened = None if node.made.reads is None else node.made.reads.get(name, ())
                files = [path.removeprefix("data/").removesuffix(".jsonl") for path in opened or ()]
                read |= every if opened is None or "." in files else {f.removesuffix("_heldout") for f in files}
    return read


def item_means(found: Explanation) -> list[tuple[str, float, int]]:
    """[(benchmark/item, mean value, answers)] without errors, the worst first: the terms of the score's mean."""
    values: dict[str, list[float]] = defaultdict(list)
    for answer in found.answers:
        if answer.value is not None:
            values[f"{answer.benchmark}/{answer.item}"].append(answer.value)
    return sorted(((item, sum(v) / len(v), len(v)) for item, v in values.items()), key=lambda row: (row[1], row[0]))


def render_text(found: Explanation, answers: int = 3) -> str:
    """For a terminal. answers: how many of the answers are shown, some right and some wrong."""
    score, made = found.score, found.node.made
    means = item_means(found)
    whole, none = sum(mean >= 1 for _, mean, _ in means), sum(mean <= 0 for _, mean, _ in means)
    lines = [
        f"{found.node.ref.stage}/{found.name} = {score.avg.value:.4f}"
        f"  ({100 * score.avg.confidence:g} % interval {score.avg.low:.4f} to {score.avg.high:.4f})",
        "",
        f"mean over {score.items} items x {score.samples} answers: {score.answers} answers, {score.correct} correct, "
        f"{score.wrong} wrong, {score.scored} between, {score.truncated} truncated, {score.no_answer} without an "
        f"answer, {score.errors} not verified (left out)",
        f"items: {whole} always right, {none} never right, {len(means) - whole - none} sometimes",
        "",
        f"evaluation  {found.node.label}",
        f"            {found.node.ref.uri}",
        *_where(found.node),
        *_model(found),
        f"MLflow run  {made.mlflow_run_id or 'none'}, Prefect run {made.prefect_run_id or 'none'}",
        "",
        "settings",
    ]
    origins = {
        key.rpartition(".")[2]: value.origin for key, value in made.config.items() if key.startswith("evaluate.")
    }
    for key, value in found.settings.items():
        lines.append(f"  {key} = {value}{f'  ({origins[key]})' if key in origins else ''}")
    for title, shards in (("questions from", found.benchmarks), ("the model was trained on", found.trained_on)):
        lines += ["", title]
        lines += [f"  {s.uri}  {s.records} records, {s.licence}, sha256 {s.sha256[:12]}" for s in shards] or [
            "  nothing recorded"
        ]
    for node in found.graph.cleaned:
        lines.append(f"  {node.label} removed {node.cleaned.removed} records that resemble benchmark items")
    lines += ["", f"answers ({min(answers, len(found.answers))} of {len(found.answers)}; --json has all)"]
    for answer in _some(found.answers, answers):
        value = "" if answer.value is None else f" {answer.value:g}"
        lines += [
            f"  {answer.benchmark}/{answer.item} sample {answer.sample}: {answer.outcome}{value}, "
            f"{answer.tokens} tokens, seed {answer.seed}",
            f"    asked     {_line(answer.prompt)}",
            f"    answered  {_line(answer.response)}",
            f"    expected  {_line(answer.reference)}",
        ]
    return "\n".join(lines) + "\n"


def to_json(found: Explanation) -> dict[str, Any]:
    return {
        "score": f"{found.node.ref.stage}/{found.name}",
        "value": asdict(found.score),
        "evaluation": _artifact(found.node),
        "model": _artifact(found.model) if found.model is not None else _asked(found),
        "settings": dict(found.settings),
        "config": {key: value.model_dump() for key, value in found.node.made.config.items()},
        "benchmarks": [asdict(source) for source in found.benchmarks],
        "trained_on": [asdict(source) for source in found.trained_on],
        "decontamination": [{"artifact": n.label, "counts": n.cleaned.counts} for n in found.graph.cleaned],
        "lineage": [node.label for node in found.graph.nodes.values()],
        "items": [{"item": item, "mean": mean, "answers": count} for item, mean, count in item_means(found)],
        "answers": [asdict(answer) for answer in found.answers],
    }


def _model(found: Explanation) -> list[str]:
    if found.model is None:
        return [f"model       {' at '.join(filter(None, _asked(found).values()))}, which the store does not hold"]
    return [f"model       {found.model.label}", f"            {found.model.ref.uri}", *_where(found.model)]


def _asked(found: Explanation) -> dict[str, str]:
    """What a model behind HTTP was called, and where it was."""
    return {name: str(found.settings.get(name) or "") for name in ("model", "endpoint")}


def _artifact(node: LineageNode) -> dict[str, Any]:
    made = node.made.model_dump(mode="json", exclude={"inputs", "config"})
    return {"artifact": node.label, "uri": node.ref.uri, "fingerprint": node.ref.fingerprint, "made": made}


def _where(node: LineageNode) -> list[str]:
    made = node.made
    commit = f"{made.git_commit[:12]}{'+changes' if made.git_dirty else ''}" if made.git_commit else "unknown"
    recipe = f"recipe {made.recipe} {made.recipe_version}, " if made.recipe else ""
    return [f"            {recipe}seed {made.seed}, commit {commit}, {made.created} on {made.host}"]


def _some(answers: tuple[Answer, ...], number: int) -> list[Answer]:
    """A few answers, right and wrong ones in turn, in their order."""
    right = [answer for answer in answers if answer.outcome == "correct"]
    other = [answer for answer in answers if answer.outcome != "correct"]
    taken = [answer for pair in zip(right, other, strict=False) for answer in pair] or [*right, *other]
    return taken[:number]


def _line(text: str, width: int = 100) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"
