"""Benchmarks that a judge model decides: Arena-Hard v2, HealthBench, Creative Writing v3.

Their rules are in components.evaluation.judged. HealthBench brings its rubrics with the items; Arena-Hard needs the
baseline's answers (o3-mini-2025-01-31 for hard prompts, gemini-2.0-flash-001 for creative ones, as published), Creative
Writing its criteria and its judging prompt, as files: no licence lets us ship them. With pieces of rated models and the
pairwise prompt it has an Elo too.
"""

from __future__ import annotations

from components.data.schema import Message, Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, RecordProblem, Row, text
from components.evaluation.judged import arena, creative, health


def arena_hard(row: Row) -> Question:
    """uid, category, prompt."""
    category = str(row.get("category") or "hard_prompt")
    uid = text(row, "uid", "question_id")
    verifier = Verifier(kind="judged", reference={"rule": "arena", "uid": uid, "category": category})
    return Question(uid, text(row, "prompt"), verifier, category)


def healthbench(row: Row) -> Question:
    """prompt (a conversation), rubrics [{criterion, points, tags}], example_tags with the theme."""
    turns, rubrics = row["prompt"], row["rubrics"]
    try:
        messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)
        criteria = [{"text": rubric["criterion"], "points": float(rubric["points"])} for rubric in rubrics]
    except (KeyError, TypeError, ValueError) as error:
        raise RecordProblem(
            "rubrics", f"turns with role and content, rubrics with criterion and points: {error}"
        ) from None
    if not any(criterion["points"] > 0 for criterion in criteria):
        raise RecordProblem("rubrics", "no criterion has positive points")
    themes = [tag.removeprefix("theme:") for tag in row.get("example_tags") or () if tag.startswith("theme:")]
    axes = [[tag.removeprefix("axis:") for tag in r.get("tags") or () if tag.startswith("axis:")] for r in rubrics]
    reference = {"rule": "health", "rubric_items": criteria, "axes": axes}
    verifier = Verifier(kind="judged", reference=reference)
    return Question(text(row, "prompt_id"), messages, verifier, themes[0] if themes else "")


def creative_writing(row: Row) -> Question:
    """writing_prompt with `<SEED>`, and seed_modifiers of which the sample's number chooses one."""
    prompt, seeds = text(row, "writing_prompt"), row.get("seed_modifiers") or []
    if "<SEED>" in prompt and not seeds:
        raise RecordProblem("seed_modifiers", "the prompt has a <SEED> and there is none")
    first = prompt.replace("<SEED>", str(seeds[0]) if seeds else "").strip()
    name = text(row, "prompt_id")
    reference = {
        "rule": "creative",
        "seeds": [str(seed) for seed in seeds],
        "template": prompt,
        "prompt_id": name,
    }
    verifier = Verifier(kind="judged", reference=reference)
    return Question(name, first, verifier, str(row.get("category") or ""))


BENCHMARKS = (
    Benchmark(
        name="arena-hard-v2",
        title="Arena-Hard v2.0",
        domain="general",
        read=arena_hard,
        source="arXiv 2406.11939; lmarena/arena-hard-auto",
        judged=True,
        files=("baseline",),
        needs=("baseline",),
        metrics=arena.metrics,
        headline="win rate",
        max_new_tokens=32_768 - 8192,
    ),
    Benchmark(
        name="healthbench",
        title="HealthBench",
        domain="general",
        read=healthbench,
        source="arXiv 2505.08775; openai/simple-evals healthbench_eval.py",
        judged=True,
        metrics=health.metrics,
        headline="score",
        hub=Hub("openai/healthbench", "test"),
        max_new_tokens=32_768 - 8192,
    ),
    Benchmark(
        name="creative-writing-v3",
        title="Creative Writing v3",
        domain="general",
        read=creative_writing,
        source="EQ-bench/creative-writing-bench",
        judged=True,
        files=("criteria", "negative", "prompt", "rivals", "pairwise"),
        needs=("criteria", "prompt"),
        metrics=creative.metrics,
        ask=creative.seeded,
        headline="rubric",
        samples=3,
        temperature=0.7,
        max_new_tokens=8192,
    ),
)
