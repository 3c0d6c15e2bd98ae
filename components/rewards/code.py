"""Code: all tests or nothing, by the sandbox. Expected outputs stay outside it.

reference: {"language": str, "tests": [{"stdin", "stdout"}, {"call", "result"} or {"unit": test file}],
"tolerance": float?, "checker": {"language", "source"}?, "files": {...}?, "prelude": str?}. `prelude` comes before the
program (a starting point that the prompt gave); `checker` judges outputs that have several right forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.failures import BadInput
from components.rewards.extract import program
from components.rewards.types import Reward
from components.sandbox import Limits, Program, RunResult, Test

_SHOWN = 300


def code_job(response: str, reference: Mapping[str, Any]) -> tuple[Program, tuple[Test, ...]] | None:
    """The program of a response with its tests, or None when it has none.

    Raises:
        BadInput: the reference has no tests, or one of an unknown form.
    """
    tests = []
    checker = reference.get("checker")
    judge = Program(str(checker["language"]), str(checker["source"])) if checker else None
    for position, test in enumerate(reference.get("tests") or ()):
        tolerance = test.get("tolerance", reference.get("tolerance"))
        if "call" in test and "result" in test:
            tests.append(Test(call=test["call"], expected=test["result"], tolerance=tolerance))
        elif "stdin" in test and "stdout" in test:
            tests.append(Test(stdin=test["stdin"], expected=test["stdout"], tolerance=tolerance, checker=judge))
        elif "unit" in test:
            tests.append(Test(unit=test["unit"]))
        else:
            raise BadInput(
                "a test has stdin and stdout, call and result, or unit", where=f"verifier.reference.tests[{position}]"
            )
    if not tests:
        raise BadInput("a code problem without tests", where="verifier.reference.tests")
    source = program(response)
    if source is None:
        return None
    source = str(reference.get("prelude", "")) + source
    return Program(str(reference.get("language", "python")), source, dict(reference.get("files") or {})), tuple(tests)


def code_limits(reference: Mapping[str, Any], deadline_s: float) -> Limits:
    """Processor time as the reference asks (`time_limit_s`), at most the deadline; real time is twice the deadline, for
    a busy machine."""
    cpu_s = min(float(reference.get("time_limit_s", deadline_s)), deadline_s)
    memory = int(reference.get("memory_limit_bytes", Limits.memory_bytes))
    return Limits(cpu_s=cpu_s, wall_s=2 * deadline_s, memory_bytes=memory)


def code_reward(result: RunResult, total: int) -> Reward:
    """1 when every test is accepted, else 0; a failure of the machine or a missing language is an error."""
    passed = sum(test.verdict == "accepted" for test in result.tests)
    evidence: dict[str, Any] = {
        "sandbox": result.verdict,
        "tier": result.tier,
        "language": result.language,
        "passed": passed,
        "total": total,
    }
    if result.verdict in ("infrastructure-error", "unavailable"):
        return Reward(None, "error", {**evidence, "problem": result.detail}, result.seconds)
    if result.detail:
        evidence["detail"] = result.detail[:_SHOWN]
    elif result.tests and not result.accepted:
        failed = next(test for test in result.tests if test.verdict != "accepted")
        evidence["first_failure"] = {
            "stdout": failed.stdout[:_SHOWN],
            "value": (failed.value or "")[:_SHOWN],
            "stderr": failed.stderr[-_SHOWN:],
        }
    right = result.accepted and passed == total
    return Reward(float(right), "correct" if right else "wrong", evidence, result.seconds)
