"""Live contests: IMO 2025 with several agents, and ICPC world finals problems in three attempts.

The report's settings: three attempts a problem for both. IMO proofs are marked by a judge model (the report's were by
people); ICPC programs are judged in the sandbox, and the scoreboard is that of contests whose standings are given.
"""

from __future__ import annotations

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Question, Row, text
from components.evaluation.benchmarks.programs import codeforces
from components.evaluation.contests import rating_metrics, scoreboard
from components.evaluation.judged import proof

REPORT = "arXiv 2510.18855 section 5"


def imo(row: Row) -> Question:
    """question or problem; answer where the problem has one."""
    reference = {"rule": "proof"} | ({"answer": row["answer"]} if str(row.get("answer") or "").strip() else {})
    problem = text(row, "question", "problem")
    return Question(
        str(row.get("problem_idx") or row.get("id") or problem), problem, Verifier(kind="judged", reference=reference)
    )


BENCHMARKS = (
    Benchmark(
        name="imo25",
        title="IMO 2025",
        domain="math",
        read=imo,
        source=REPORT,
        samples=3,
        max_new_tokens=65_536,
        judged=True,
        agentic=True,
        metrics=proof.metrics,
        headline="best points",
    ),
    Benchmark(
        name="icpc",
        title="ICPC world finals",
        domain="code",
        read=codeforces,
        source=REPORT,
        samples=3,
        top_p=0.95,
        max_new_tokens=65_536,
        metrics=rating_metrics,
        board=scoreboard,
        files=("standings",),
    ),
)
