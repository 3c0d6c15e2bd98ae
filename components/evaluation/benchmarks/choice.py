"""GPQA-diamond: four options in an order drawn from the question, so that no letter is right more often.

The letter is asked in a box; the rule of simple-evals, whose prompt is `Answer: $LETTER`, needs another pattern only.
"""

from __future__ import annotations

import random

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, Row, text

LETTERS = "ABCD"
INSTRUCTION = "Please reason step by step, and put the letter of the right option within \\boxed{}."


def gpqa(row: Row) -> Question:
    """Fields of the published CSV: Question, Correct Answer, Incorrect Answer 1 to 3."""
    question = text(row, "Question", "question").strip()
    options = [text(row, "Correct Answer"), *(text(row, f"Incorrect Answer {number}") for number in (1, 2, 3))]
    order = list(range(4))
    random.Random(f"gpqa\0{question}").shuffle(order)
    listed = "\n".join(f"{letter}. {options[at].strip()}" for letter, at in zip(LETTERS, order, strict=True))
    prompt = f"{question}\n\n{listed}\n\n{INSTRUCTION}"
    verifier = Verifier(kind="choice", reference={"answer": LETTERS[order.index(0)], "options": len(options)})
    return Question(str(row.get("Record ID") or question), prompt, verifier, str(row.get("High-level domain") or ""))


BENCHMARKS = (
    Benchmark(
        name="gpqa-diamond",
        title="GPQA diamond",
        domain="science",
        read=gpqa,
        source="arXiv 2311.12022; sampling of arXiv 2506.14731",
        hub=Hub("Idavidrein/gpqa", "train", "gpqa_diamond"),
        samples=4,
        top_p=0.95,
    ),
)
