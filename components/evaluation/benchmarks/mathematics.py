"""Competition and school mathematics with one final answer, checked symbolically.

Samples per item are the Ring-1T report's for AIME (avg@64) and HMMT (avg@16); where it gives none, enough for an
interval that is not mostly sampling noise on a benchmark of that size. The instruction is the one that reasoning models
are commonly asked with. Temperature and top-p are unpublished for Ring-1T: those of Ring-lite (arXiv 2506.14731), 1.0
and 0.95.
"""

from __future__ import annotations

from functools import partial

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, RecordProblem, Row, text

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
REPORT = "arXiv 2510.18855 section 5; sampling of arXiv 2506.14731"


def _question(row: Row, problem: str, answer: str, family: str = "", level: int = 0) -> Question:
    key = row.get("unique_id") or "/".join(str(row[name]) for name in ("contest", "id") if row.get(name) is not None)
    prompt = f"{problem.strip()}\n\n{INSTRUCTION}"
    return Question(str(key) or problem, prompt, Verifier(kind="math", reference={"answer": answer}), family, level)


def contest(row: Row) -> Question:
    """problem and answer; MathArena's and other exports."""
    family = str(row.get("contest") or row.get("subject") or "")
    level = row.get("level")
    return _question(
        row,
        text(row, "problem", "question"),
        text(row, "answer", "expected_answer", "final_answer"),
        family,
        level if isinstance(level, int) else 0,
    )


def gsm8k(row: Row) -> Question:
    """The answer stands after `####`; thousands are separated by commas there."""
    solution = text(row, "answer")
    mark, _, answer = solution.rpartition("####")
    if not mark and "####" not in solution:
        raise RecordProblem("answer", "no #### before the final answer")
    return _question(row, text(row, "question"), answer.strip().replace(",", ""))


def olympiadbench(row: Row) -> Question:
    """Several answers are one list, compared as a whole."""
    answers = row.get("answer") or row.get("final_answer") or []
    answers = [answers] if isinstance(answers, str) else [str(answer) for answer in answers]
    if not answers:
        raise RecordProblem("answer", "there is no answer")
    family = str(row.get("subfield") or "")
    return _question(row, text(row, "problem", "question"), ", ".join(answers), family)


_contest = partial(Benchmark, domain="math", read=contest, source=REPORT, top_p=0.95, max_new_tokens=131_072 - 4096)
_school = partial(Benchmark, domain="math", source=REPORT, top_p=0.95, max_new_tokens=32_768)

BENCHMARKS = (
    _contest(name="aime24", title="AIME 2024", hub=Hub("HuggingFaceH4/aime_2024", "train"), samples=64),
    _contest(name="aime25", title="AIME 2025", hub=Hub("MathArena/aime_2025", "train"), samples=64),
    _contest(name="hmmt24", title="HMMT February 2024", hub=None, samples=16),
    _contest(name="hmmt25", title="HMMT February 2025", hub=Hub("MathArena/hmmt_feb_2025", "train"), samples=16),
    _contest(
        name="olymmath-hard", title="OlymMATH EN-HARD", hub=Hub("RUC-AIBOX/OlymMATH", "test", "en-hard"), samples=8
    ),
    _school(name="math500", title="MATH-500", hub=Hub("HuggingFaceH4/MATH-500", "test"), read=contest, samples=4),
    _school(name="gsm8k", title="GSM8K", hub=Hub("openai/gsm8k", "test", "main"), read=gsm8k, samples=1),
    _school(
        name="olympiadbench",
        title="OlympiadBench, English text-only mathematics",
        hub=Hub("Hothan/OlympiadBench", "train", "OE_TO_maths_en_COMP"),
        read=olympiadbench,
        samples=4,
    ),
)
