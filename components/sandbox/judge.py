"""From the raw facts of a run to a verdict. Runs on the host, where the expected outputs are."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Any

from components.failures import InfrastructureError
from components.sandbox.compare import same_output, same_value
from components.sandbox.types import Limits, Test, TestResult, Verdict

_MEMORY_SIGNS = (
    "MemoryError", "std::bad_alloc", "OutOfMemoryError", "JavaScript heap out of memory", "Out of memory!",
    "memory allocation of", "OutOfMemoryException", "Out of memory (", "Allowed memory size of", "NoMemoryError",
    "cannot allocate vector", "heap exhausted", "Cannot allocate memory", "cannot allocate memory", "not enough memory",
)  # fmt: skip


# How checkers answer: testlib's exit codes and those of the Kattis problem format.
CHECKER_RIGHT, CHECKER_WRONG = (0, 42), (1, 2, 43)
Facts = dict[str, Any]
"""What supervisor.py says of one process, with the bytes of its pipes: out, err, report, setup."""


def facts_of(message: dict[str, Any], blobs: list[bytes]) -> list[Facts]:
    """The processes of an answer: one, or the program and its examiner."""
    names = ("out", "err", "report", "setup")
    return [
        {**facts, **dict(zip(names, blobs[4 * index : 4 * index + 4], strict=True))}
        for index, facts in enumerate(message["facts"])
    ]


def judge_compile(facts: Facts, limits: Limits) -> str:
    """What to tell about a compilation that failed."""
    if facts["setup"]:
        raise InfrastructureError(f"the sandbox could not prepare a compilation: {_text(facts['setup'])}")
    if facts["broken"] in ("wall", "cpu"):
        return f"compilation took longer than {limits.cpu_s:.0f} s of processor or {limits.wall_s:.0f} s of real time"
    if facts["broken"]:
        return "the compiler printed too much"
    return _text(facts["err"]) or _text(facts["out"]) or f"the compiler ended with status {facts['status']}"


def judge_run(facts: Facts, test: Test, limits: Limits) -> TestResult:
    """One test that ran in a process of its own; a checker's word comes later."""
    verdict, common = _judge_process(facts, limits)
    if verdict == "accepted" and test.expected is not None and test.checker is None:
        verdict = "accepted" if same_output(common["stdout"], test.expected, test.tolerance) else "wrong-answer"
    return TestResult(verdict=verdict, **common)


def judge_calls(processes: list[Facts], tests: list[Test], limits: Limits) -> list[TestResult]:
    """Calls that shared one process: a result for each call that reported, then one for the call that ended it early.

    Shorter than `tests` when the process ended before the last call: the rest goes into a new process.
    """
    facts, reporting = processes[0], processes[-1]
    ended, common = _judge_process(facts, limits)
    _check_examiner(processes)
    lines = reporting["report"].split(b"\n")[:-1]
    results: list[TestResult] = []
    previous = 0.0
    for test, line, mark in zip(tests, lines, reporting["marks"], strict=False):
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
        whole = _early_end(processes, ended)
        results.append(TestResult(verdict=whole, **{**common, "seconds": facts["seconds"] - previous}))
        failed = _record(facts["report"].split(b"\n")[0])
        if whole == "compile-error" or "p" in failed:
            results += [results[-1]] * (len(tests) - len(results))  # the program itself failed, as it would again
    return results


def judge_unit(processes: list[Facts], limits: Limits) -> TestResult:
    """Unit tests, by what their examiner reported."""
    program, examiner = processes
    ended, common = _judge_process(program, limits)
    _check_examiner(processes)
    record = _record(examiner["report"].split(b"\n")[0])
    common["stdout"] = common["stdout"] or _text(examiner["out"])
    if "passed" not in record:
        return TestResult(verdict=_early_end(processes, ended), **common)
    passed, total = record["passed"], record["total"]
    said = "; ".join(f"{name}: {message}" for name, message in record["failed"])
    common |= {"exit_code": None, "signal": None, "value": f"{passed}/{total}", "detail": said}
    return TestResult(verdict="accepted" if passed == total else "wrong-answer", **common)


def judge_checker(result: TestResult, facts: Facts, limits: Limits) -> TestResult:
    """The result with the checker's word.

    Raises:
        InfrastructureError: the checker broke a limit, crashed, or said that it failed. That says nothing about the
            program.
    """
    verdict, common = _judge_process(facts, limits)
    said = (common["stdout"] + common["stderr"]).strip()[-500:]
    raised = "p" in _record(facts["report"].split(b"\n")[0])  # a Python checker that raises ends with 1, too
    if verdict in ("accepted", "runtime-error") and not raised:
        if common["exit_code"] in CHECKER_RIGHT:
            return replace(result, detail=said)
        if common["exit_code"] in CHECKER_WRONG:
            return replace(result, verdict="wrong-answer", detail=said)
    raise InfrastructureError(f"the checker failed ({verdict}, exit code {common['exit_code']}): {said}")


def _check_examiner(processes: list[Facts]) -> None:
    if len(processes) > 1 and processes[1]["setup"]:
        raise InfrastructureError(f"the sandbox could not prepare an examination: {_text(processes[1]['setup'])}")


def _early_end(processes: list[Facts], ended: Verdict) -> Verdict:
    """Why a process ended before it had answered everything. An examined program that still ran was ended by us."""
    facts = processes[0]
    if len(processes) > 1 and not facts["broken"] and facts["status"] == signal.SIGKILL:
        examiner = processes[1]["status"]
        return "time-limit" if examiner & 0x7F == signal.SIGXCPU else "runtime-error"
    return ended if ended != "accepted" else "runtime-error"


def _record(line: bytes) -> dict[str, Any]:
    """A line of the report pipe. The program can write there too, so anything may come."""
    if not line:
        return {}
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _judge_process(facts: Facts, limits: Limits) -> tuple[Verdict, dict[str, Any]]:
    if facts["setup"]:
        raise InfrastructureError(f"the sandbox could not prepare a process: {_text(facts['setup'])}")
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
    first = _record(facts["report"].split(b"\n")[0])
    verdict: Verdict = "accepted"
    if facts["broken"] == "output" or number == signal.SIGXFSZ:
        verdict = "output-limit"
    elif facts["broken"] in ("wall", "cpu") or number == signal.SIGXCPU:
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


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
