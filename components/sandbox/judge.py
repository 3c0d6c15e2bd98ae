"""From the raw facts of a run to a verdict. Runs on the host, where the expected outputs are."""

from __future__ import annotations

import json
import signal
from typing import Any

from components.failures import InfrastructureError
from components.sandbox.compare import same_output, same_value
from components.sandbox.types import Limits, Test, TestResult, Verdict

_MEMORY_SIGNS = (
    "MemoryError", "std::bad_alloc", "OutOfMemoryError", "JavaScript heap out of memory", "Out of memory!",
    "memory allocation of", "Cannot allocate memory", "cannot allocate memory", "not enough memory",
)  # fmt: skip


def judge_compile(facts: dict[str, Any], limits: Limits) -> str:
    """What to tell about a compilation that failed."""
    if facts["setup"]:
        raise InfrastructureError(f"the sandbox could not prepare a compilation: {facts['setup']}")
    if facts["broken"] == "wall" or facts["cpu"] >= limits.cpu_s:
        return f"compilation took longer than {limits.cpu_s:.0f} s of processor or {limits.wall_s:.0f} s of real time"
    if facts["broken"]:
        return "the compiler printed too much"
    return _text(facts["err"]) or _text(facts["out"]) or f"the compiler ended with status {facts['status']}"


def judge_run(facts: dict[str, Any], test: Test, limits: Limits) -> TestResult:
    """One test that ran in a process of its own."""
    verdict, common = _judge_process(facts, limits)
    if verdict == "accepted" and test.expected is not None:
        verdict = "accepted" if same_output(common["stdout"], test.expected, test.tolerance) else "wrong-answer"
    return TestResult(verdict=verdict, **common)


def judge_calls(facts: dict[str, Any], tests: list[Test], limits: Limits) -> list[TestResult]:
    """Calls that shared one process: a result for each call that reported, then one for the call that ended it early.

    Shorter than `tests` when the process ended before the last call: the rest goes into a new process.
    """
    ended, common = _judge_process(facts, limits)
    lines = facts["report"].split("\n")[:-1]
    results: list[TestResult] = []
    previous = 0.0
    for test, line, mark in zip(tests, lines, facts["marks"], strict=False):
        record = _record(line)
        if ("v" not in record and "e" not in record) or "p" in record:
            break
        part = {**common, "seconds": mark - previous, "exit_code": None, "signal": None}
        previous = mark
        if "v" in record:
            value = str(record["v"])
            right = test.expected is None or same_value(value, test.expected, test.tolerance)
            results.append(TestResult(verdict="accepted" if right else "wrong-answer", value=value, **part))
        else:
            verdict: Verdict = "memory-limit" if record["e"] == "MemoryError" else "runtime-error"
            if record["e"] == "OutputTooLarge":
                verdict = "output-limit"
            part["stderr"] = f"{record['e']}: {record.get('m', '')}"
            results.append(TestResult(verdict=verdict, **part))
    if len(results) < len(tests):
        whole = ended if ended != "accepted" else "runtime-error"
        results.append(TestResult(verdict=whole, **{**common, "seconds": facts["seconds"] - previous}))
        if whole == "compile-error" or (not lines or "p" in _record(lines[0])):
            results += [results[-1]] * (len(tests) - len(results))  # the program itself failed, as it would again
    return results


def _record(line: str) -> dict[str, Any]:
    """A line of the report pipe. The program can write there too, so anything may come."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _judge_process(facts: dict[str, Any], limits: Limits) -> tuple[Verdict, dict[str, Any]]:
    if facts["setup"]:
        raise InfrastructureError(f"the sandbox could not prepare a process: {facts['setup']}")
    status = facts["status"]
    number = status & 0x7F
    stderr = _text(facts["err"])
    common = {
        "stdout": _text(facts["out"]),
        "stderr": stderr,
        "exit_code": None if number else status >> 8,
        "signal": number or None,
        "seconds": facts["seconds"],
        "cpu_seconds": facts["cpu"],
        "memory_bytes": facts["memory"],
    }
    first = _record(facts["report"].split("\n")[0])
    verdict: Verdict = "accepted"
    if facts["broken"] == "output" or number == signal.SIGXFSZ:
        verdict = "output-limit"
    elif facts["broken"] == "wall" or number == signal.SIGXCPU or facts["cpu"] > limits.cpu_s:
        verdict = "time-limit"
    elif number == signal.SIGSYS:
        verdict = "security-violation"
    elif number == signal.SIGKILL:
        verdict = "memory-limit"  # nobody else kills in there: the kernel did, for memory
    elif status:
        starved = any(sign in stderr[-4000:] for sign in _MEMORY_SIGNS) or facts["memory"] > 0.95 * limits.memory_bytes
        verdict = "memory-limit" if starved else "runtime-error"
        if first.get("p") == "compile" and not starved:
            verdict = "compile-error"
    return verdict, common


def _text(latin: str) -> str:
    return latin.encode("latin-1").decode("utf-8", "replace")
