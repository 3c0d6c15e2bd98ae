"""RL prompts that are left out, with the reason: Ring-lite (arXiv 2506.14731) drops items with several parts, multiple
choice, yes/no and images, because a rule cannot verify them or a guess solves them.

The rules read the question as people write it; what they do on public sets is counted in docs/ingestion.md. Problems
that are always or never solved need a model (components.data.pass_rate), accepted solutions of code need the sandbox
(components.data.solutions).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from components.data.schema import RlRecord
from components.recipe.data import PromptFilterConfig

# `(a) ... (b)` standing free, not the argument of a function; the same in Roman numbers, and `Part A ... Part B`.
_PARTS = (
    re.compile(r"(?:^|[\s:;.])\(?a\)\s+\S[\s\S]*?[\s:;.]\(?b\)\s+\S"),
    re.compile(r"(?:^|[\s:;.])\(?i\)\s+\S[\s\S]*?[\s:;.]\(?ii\)\s+\S"),
    re.compile(r"\b[Pp]art\s+(?:A|a|1|I)\b[\s\S]*?\b[Pp]art\s+(?:B|b|2|II)\b"),
)
_CHOICES = (
    re.compile(r"\(A\)[\s\S]{1,400}?\(B\)[\s\S]{1,400}?\(C\)"),
    re.compile(r"(?:^|\n)\s*A[.):]\s+\S.*\n+\s*B[.):]\s+\S.*\n+\s*C[.):]\s+\S"),
    re.compile(r"\\text(?:bf)?\s*\{\s*\(?A\)?\s*\}[\s\S]{1,400}?\\text(?:bf)?\s*\{\s*\(?B\)?\s*\}"),
)
_WHICH = re.compile(r"\bwhich (?:one )?of the following\b", re.IGNORECASE)
_VERDICTS = frozenset({"yes", "no", "true", "false"})
_VERDICT_ASKED = re.compile(r"\b(?:true or false|yes or no|prove or disprove|answer (?:yes|no|true|false))\b", re.I)
_IMAGE = re.compile(
    r"!\[[^\]]*\]\(|<img\b|<image>|\[asy\]|\\includegraphics|\\begin\{tikzpicture\}"
    r"|\b(?:figure|diagram|picture|image|graph|chart) (?:below|above|shown|at (?:the )?(?:left|right))"
    r"|\b(?:shown|pictured|illustrated|depicted) (?:in the (?:figure|diagram|picture|image)|below|above)"
    r"|\bin the (?:following |adjoining |accompanying )?(?:figure|diagram|picture)\b",
    re.IGNORECASE,
)


# What a text must hold before its pattern is tried: most questions end there.
_SIGNS = ("b)", "ii)", "art ")


def multi_part(question: str, answer: str) -> bool:
    return any(sign in question and pattern.search(question) for sign, pattern in zip(_SIGNS, _PARTS, strict=True))


def multiple_choice(question: str, answer: str) -> bool:
    if "A" in question and "B" in question and any(pattern.search(question) for pattern in _CHOICES):
        return True
    return _WHICH.search(question) is not None and re.fullmatch(r"\(?[A-E]\)?\.?", answer.strip()) is not None


def yes_no(question: str, answer: str) -> bool:
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer).strip().strip(".$").casefold()
    return bare in _VERDICTS or _VERDICT_ASKED.search(question) is not None


def image(question: str, answer: str) -> bool:
    return _IMAGE.search(question) is not None


RULES: Mapping[str, Callable[[str, str], bool]] = {
    "multi_part": multi_part,
    "multiple_choice": multiple_choice,
    "yes_no": yes_no,
    "image": image,
}


def filter_prompt(record: RlRecord, config: PromptFilterConfig) -> str:
    """Why the recipe leaves this prompt out; empty when it stays. The first rule that holds counts."""
    wanted = config.reasons
    if not wanted or record.domain not in config.domains:
        return ""
    question = "\n".join(message.content for message in record.prompt if message.role == "user")
    answer = str(record.verifier.reference.get("answer", ""))
    return next((f"filter {name}" for name in wanted if RULES[name](question, answer)), "")
