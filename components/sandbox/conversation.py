"""One program's conversation with a worker: compile, then step after step, each judged before the next is sent.

Built from the tests' inputs alone: expected outputs stay here, except that a checker, which is another program in
namespaces of its own, gets them as a file, and unit tests go to an examiner (inside/examiner.py).
"""

from __future__ import annotations

import ast
import builtins
import marshal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from components.failures import BadInput, InfrastructureError
from components.sandbox.compile_cache import CompileCache, Compiled
from components.sandbox.judge import (
    Facts,
    facts_of,
    judge_calls,
    judge_checker,
    judge_compile,
    judge_run,
    judge_unit,
)
from components.sandbox.languages import Language, command, find_language, missing_tools
from components.sandbox.types import Limits, Program, Test, TestResult, Tier
from components.sandbox.worker import Worker

_SLACK_S = 20.0
_STARVED = 4  # supervisor.py gives a starved program up to three times its real time on top
_OUTPUT_BYTES = 64 << 20  # of a compiler
_FETCH_BYTES = 16 << 20
_CHECKER_MEMORY = 1 << 30


class MemoryEnded(Exception):
    """The worker ended because its memory group was exhausted: the program's doing, so its verdict, not a failure."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier


class Conversation:
    """What is said about one program, and what came of it so far.

    results: of the tests in order; they stay when a worker fails, and the next one goes on after them.
    compile_error: the compiler's message, or None.
    """

    def __init__(
        self,
        program: Program,
        language: Language,
        tests: Sequence[Test],
        limits: Limits,
        compile_limits: Limits,
        stop: bool,
        fetch: Sequence[str],
        cache: CompileCache,
    ) -> None:
        self._program, self._language, self._tests = program, language, list(tests)
        self._limits, self._compile_limits, self._stop, self._fetch = limits, compile_limits, stop, list(fetch)
        self._cache = cache
        self.results: list[TestResult] = []
        self.compile_error: str | None = None
        self.compile_seconds: float | None = None

    def hold(self, worker: Worker, most_memory: int, most_processes: int) -> None:
        """Talks until everything is judged.

        Raises:
            InfrastructureError: the worker failed; another one may go on.
            MemoryEnded: it failed because the program took all memory; the result is there.
        """
        try:
            self._hold(worker, most_memory, most_processes)
        except InfrastructureError:
            if not worker.memory_ended_it():
                raise
            self.results.append(TestResult("memory-limit", detail="all its processes together took too much memory"))
            worker.close()
            raise MemoryEnded(worker.tier) from None

    def _hold(self, worker: Worker, most_memory: int, most_processes: int) -> None:
        outputs = self._compiled(worker, self._program, self._language)
        if outputs is None:
            return
        asked = _Asked(worker, self._program, self._language, outputs, most_memory, most_processes)
        while len(self.results) < len(self._tests):
            group = _first_group(self._tests[len(self.results) :])
            limits = group[0].limits or self._limits
            answer, kept = asked.step(group, limits, self._fetch)
            if group[0].call is not None:
                results = judge_calls(answer, group, limits)
            elif group[0].unit is not None:
                results = [judge_unit(answer, limits)]
            else:
                results = [judge_run(answer[0], group[0], limits)]
                if group[0].checker is not None and results[0].verdict == "accepted":
                    asked.close()
                    results = [self._checked(worker, group[0], results[0], answer[0], most_memory, most_processes)]
            self.results += [replace(result, files=kept) for result in results] if kept else results
            if self._stop:
                failed = [index for index, result in enumerate(self.results) if result.verdict != "accepted"]
                if failed:
                    del self.results[failed[0] + 1 :]
                    break

    def _compiled(self, worker: Worker, program: Program, language: Language) -> Mapping[str, bytes] | None:
        """What a run needs besides the source: the compiler's outputs; None when it does not compile."""
        if not language.compile:
            return {}
        limits = self._compile_limits
        made, known = self._cache.get(language, program, lambda: _compile(worker, program, language, limits))
        if program is self._program:
            self.compile_seconds = 0.0 if known else made.seconds
            if made.error:
                self.compile_error = made.error
        elif made.error:
            raise InfrastructureError(f"the checker does not compile: {made.error}")
        return None if made.error else made.outputs

    def _checked(
        self, worker: Worker, test: Test, result: TestResult, facts: Facts, most_memory: int, most_processes: int
    ) -> TestResult:
        """Asks the test's checker, a program of its own with the three files."""
        assert test.checker is not None
        language = find_language(test.checker.language)
        assert language is not None
        missing = missing_tools(language)
        if missing:
            raise InfrastructureError(f"the checker needs {', '.join(missing)}, which this machine lacks")
        files = {"input": (test.stdin or "").encode(), "output": facts["out"], "answer": (test.expected or "").encode()}
        checker = replace(test.checker, files={**test.checker.files, **files})
        outputs = self._compiled(worker, test.checker, language) or {}
        asked = _Asked(worker, checker, language, outputs, most_memory, most_processes)
        limits = replace(self._limits, cpu_s=10, wall_s=30, memory_bytes=_CHECKER_MEMORY)
        answer, _ = asked.step([Test(stdin="")], limits, (), arguments=("input", "output", "answer"))
        return judge_checker(result, answer[0], limits)


class _Asked:
    """A program that a worker has been, or will be, told to run."""

    def __init__(
        self,
        worker: Worker,
        program: Program,
        language: Language,
        outputs: Mapping[str, bytes],
        most_memory: int,
        most_processes: int,
    ) -> None:
        self._worker, self._program, self._language, self._outputs = worker, program, language, outputs
        self._most_memory, self._most_processes = most_memory, most_processes
        self._open = False

    def close(self) -> None:
        """Another program comes between: the next step opens this one again."""
        self._open = False

    def step(
        self, group: list[Test], limits: Limits, fetch: Iterable[str], arguments: Sequence[str] = ()
    ) -> tuple[list[Facts], dict[str, bytes]]:
        """Runs one step: (facts of its processes, files fetched)."""
        first = group[0]
        calls = [test.call for test in group if test.call is not None]
        examined = first.unit is not None or _examined(first)
        turns = max(1, len(calls))
        step = {"what": "step", "limits": vars(limits), "turns": turns, "fetch": list(fetch),
                "fetch_bytes": _FETCH_BYTES, "address_space": self._language.address_space}  # fmt: skip
        argv = command(self._language.run, limits.memory_bytes) if self._language.run else None
        told = self._told(argv, [] if examined else calls, examined, arguments)
        blobs = [(first.stdin or "").encode("utf-8", "surrogateescape"), told]
        if examined:
            unit = None if first.unit is None else first.unit.encode()
            blobs.append(marshal.dumps(("examiner", {"calls": calls, "unit": unit})))
        frames: list[tuple[Any, Sequence[bytes]]] = [(step, blobs)]
        memory = min(limits.memory_bytes + self._language.overhead_bytes, self._most_memory)
        self._worker.bound(min(limits.processes, self._most_processes), memory)
        if not self._open:
            frames.insert(0, self._request())
            self._open = True
        self._worker.tell(*frames)
        message, blobs = self._worker.hear(_STARVED * limits.wall_s * (turns + 1) + _SLACK_S)
        count = 4 * len(message["facts"])
        return facts_of(message, blobs[:count]), dict(zip(message["kept"], blobs[count:], strict=True))

    def _request(self) -> tuple[Any, Sequence[bytes]]:
        language = self._language
        files = {name: _bytes(content) for name, content in self._program.files.items()}
        if language.run:
            inside = {**files, language.source: _bytes(self._program.source), **self._outputs}
            files |= {f"\0{name}": content for name, content in inside.items()}
        message = {
            "what": "open",
            "compile": False,
            "names": list(files),
            "box_bytes": sum(map(len, files.values())) + (4 << 20),
        }
        return message, list(files.values())

    def _told(self, argv: list[str] | None, calls: list[str], examined: bool, arguments: Sequence[str]) -> bytes:
        source = b"" if argv else _bytes(self._program.source)
        return _told(self._language, source, argv, calls=calls, examined=examined, arguments=list(arguments))


def _told(language: Language, source: bytes, argv: list[str] | None, directory: str = "tmp", **values: Any) -> bytes:
    """What a process is told (inside/program.py); the supervisor hands it on as it is. The versions of Python agree."""
    told = {"calls": [], "examined": False, "arguments": [], **values}
    told |= {"source": source, "argv": argv, "environment": dict(language.environment), "directory": directory}
    return marshal.dumps(("program", told))


def _compile(worker: Worker, program: Program, language: Language, limits: Limits) -> Compiled:
    helpers = language.helpers(program.source) if language.helpers else {}
    texts = {**helpers, **program.files, language.source: program.source}
    files = {name: _bytes(content) for name, content in texts.items()}
    message = {"what": "open", "compile": True, "names": [f"\0{name}" for name in files], "box_bytes": limits.tmp_bytes}
    step = {"what": "step", "limits": vars(limits), "turns": 1, "fetch": list(language.outputs),
            "fetch_bytes": _OUTPUT_BYTES, "address_space": False}  # fmt: skip
    told = _told(language, b"", command(language.compile, limits.memory_bytes), "box")
    worker.bound(limits.processes, limits.memory_bytes)
    worker.tell((message, list(files.values())), (step, [b"", told]))
    answer, blobs = worker.hear(_STARVED * limits.wall_s + _SLACK_S)
    (facts,) = facts_of(answer, blobs[:4])
    outputs = dict(zip(answer["kept"], blobs[4:], strict=True))
    if facts["broken"] or facts["status"] or not outputs:
        lasting = not facts["broken"] and facts["status"] & 0x7F == 0
        return Compiled(error=judge_compile(facts, limits)[:8000], seconds=facts["seconds"], lasting=lasting)
    return Compiled(outputs, seconds=facts["seconds"])


def _bytes(content: str | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return content.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadInput(f"the program is no text: {error}", where="source") from None


def _first_group(tests: list[Test]) -> list[Test]:
    """The leading tests that share a process: calls of one sort with the same limits. Any other test is alone."""
    first = tests[0]
    if first.call is None:
        return [first]
    for index, test in enumerate(tests):
        if test.call is None or test.limits != first.limits or _examined(test) != _examined(first):
            return tests[:index]
    return tests


def _examined(test: Test) -> bool:
    """Whether a call is a check of the program rather than its value: then it is evaluated away from the program.

    `f(2)` with the value 4 is compared on the host. `f(2) == 4` or `abs(f(2) - 4) < 1e-6` with the value True holds the
    expected result, and a program in the same process could read it, or return an object that equals everything.
    """
    if test.call is None or test.expected is None or test.expected.strip() != "True":
        return False
    try:
        top = ast.parse(test.call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not isinstance(top, ast.Call):
        return True
    name = top.func
    return (isinstance(name, ast.Name) and hasattr(builtins, name.id)) or (
        isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "math"
    )
