"""The sandbox as the rest of the house sees it: programs in, verdicts out, from any thread.

Workers start at the first use and stay warm; an idle one only waits on a socket. A worker that dies or stays silent is
replaced and the program is run once more; a second failure is an infrastructure error, never a verdict on the program.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from components.failures import BadInput, InfrastructureError
from components.sandbox.judge import judge_calls, judge_compile, judge_run
from components.sandbox.languages import LANGUAGES, Language, command, find_language, missing_tools
from components.sandbox.types import COMPILE_LIMITS, Limits, Program, RunResult, Test, TestResult, Tier
from components.sandbox.worker import Worker

_SLACK_S = 20.0
_STARVED = 4  # inside.py gives a starved program up to three times its real time on top


class Sandbox:
    """A pool of sandboxed workers.

    Args:
        workers: programs that run at the same time.
        tier: weakest isolation allowed; the one in force is in every result.
        max_processes: largest `Limits.processes` a program may ask for.
        worker_memory_bytes: bound on the memory of one worker, where a memory control group is writable.
        wait_s: how long a program waits for a free worker.
    """

    def __init__(
        self,
        workers: int = 2,
        tier: Tier = "strict",
        *,
        max_processes: int = 64,
        worker_memory_bytes: int = 2 << 30,
        wait_s: float = 600.0,
    ) -> None:
        if workers < 1:
            raise BadInput(f"a sandbox needs at least one worker, not {workers}", where="workers")
        self.workers, self.weakest = workers, tier
        self._max_processes, self._memory, self._wait_s = max_processes, worker_memory_bytes, wait_s
        self._slots: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # the warmest worker first
        for _ in range(workers):
            self._slots.put(None)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()

    def run(
        self,
        program: Program,
        tests: Sequence[Test],
        limits: Limits | None = None,
        *,
        stop_at_first_failure: bool = False,
    ) -> RunResult:
        """Runs one program on its tests; each test of a script is a process of its own, calls share one.

        Raises:
            BadInput: unknown language, a call in a language other than Python, a file name that leaves the directory.
            InfrastructureError: the pool is closed. A failure of the machine is a result with that verdict instead.
        """
        language = self._check(program, tests)
        limits = limits or Limits()
        started = time.monotonic()
        missing = missing_tools(language)
        if missing:
            detail = f"{language.name} needs {', '.join(missing)}, which this machine lacks"
            return RunResult("unavailable", (), self.weakest, language.name, 0.0, detail)
        problem = ""
        for _ in range(2):
            try:
                return self._run_once(program, language, list(tests), limits, stop_at_first_failure, started)
            except InfrastructureError as error:
                if self._closed:
                    raise
                problem = str(error)
        seconds = time.monotonic() - started
        return RunResult("infrastructure-error", (), self.weakest, language.name, seconds, problem)

    def run_many(
        self,
        jobs: Sequence[tuple[Program, Sequence[Test]]],
        limits: Limits | None = None,
        *,
        stop_at_first_failure: bool = False,
    ) -> list[RunResult]:
        """Runs many programs over all workers; results in the order of the jobs."""
        for program, tests in jobs:
            self._check(program, tests)
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="sandbox")
        futures = [
            self._threads.submit(self.run, program, tests, limits, stop_at_first_failure=stop_at_first_failure)
            for program, tests in jobs
        ]
        return [future.result() for future in futures]

    def warm(self) -> Tier:
        """Starts every worker now and tells the tier in force.

        Raises:
            InfrastructureError: no worker starts, or the tier is weaker than allowed; the message has the remedy.
        """
        taken = [self._take() for _ in range(self.workers)]
        try:
            taken = [worker or self._start() for worker in taken]
            return taken[0].tier
        finally:
            for worker in taken:
                self._slots.put(worker)

    def pids(self) -> list[int]:
        """Process ids of the idle workers' outermost processes."""
        return [worker.pid for worker in list(self._slots.queue) if worker is not None]

    def close(self) -> None:
        """Ends every worker and everything in it. Safe to call twice; a program still running ends with an error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        ends = time.monotonic() + self._wait_s
        for _ in range(self.workers):
            try:
                worker = self._slots.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                raise InfrastructureError("a sandbox worker was still busy when the pool closed") from None
            if worker is not None:
                worker.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- internals ---------------------------------------------------------------------------------------------------

    def _check(self, program: Program, tests: Sequence[Test]) -> Language:
        if self._closed:
            raise InfrastructureError("the sandbox is closed")
        if os.getpid() != self._owner:
            raise InfrastructureError("a sandbox cannot be used after fork: open one in this process")
        language = find_language(program.language)
        if language is None:
            known = ", ".join(row.name for row in LANGUAGES)
            raise BadInput(f"unknown language {program.language!r}", where="language", remedy=f"Known: {known}")
        if language.name != "python" and any(test.call is not None for test in tests):
            raise BadInput("function-call tests are for Python", where="tests", remedy="Use stdin and expected")
        for name in program.files:
            if name.startswith("/") or ".." in name.split("/") or not name or "\0" in name:
                raise BadInput(f"file name {name!r} leaves the program's directory", where="files")
        return language

    def _take(self) -> Worker | None:
        try:
            return self._slots.get(timeout=self._wait_s)
        except queue.Empty:
            raise InfrastructureError(f"no sandbox worker became free within {self._wait_s:.0f} s") from None

    def _start(self) -> Worker:
        return Worker(self.weakest, self._max_processes, self._memory)

    def _run_once(
        self, program: Program, language: Language, tests: list[Test], limits: Limits, stop: bool, started: float
    ) -> RunResult:
        worker = self._take()
        try:
            if worker is None:
                worker = self._start()
            outcome = self._converse(worker, program, language, tests, limits, stop)
        except BaseException:
            if worker is not None:
                worker.close()
            worker = None
            raise
        finally:
            self._slots.put(worker)
        seconds = time.monotonic() - started
        if isinstance(outcome, str):
            return RunResult("compile-error", (), worker.tier, language.name, seconds, outcome)
        verdict = next((result.verdict for result in outcome if result.verdict != "accepted"), "accepted")
        return RunResult(verdict, tuple(outcome), worker.tier, language.name, seconds)

    def _converse(
        self, worker: Worker, program: Program, language: Language, tests: list[Test], limits: Limits, stop: bool
    ) -> list[TestResult] | str:
        """The results of the tests, in order, or the compiler's message."""
        results: list[TestResult] = []
        while len(results) < len(tests):
            rest = tests[len(results) :]
            group = _first_group(rest)
            message = _message(program, language, group, limits, stop)
            answer = worker.ask(message, _deadline(language, group, limits))
            if answer["compile"] is not None:
                return judge_compile(answer["compile"], COMPILE_LIMITS)
            if group[0].call is not None:
                results += judge_calls(answer["tests"][0], group, limits)
            else:
                results += [judge_run(f, t, limits) for f, t in zip(answer["tests"], group, strict=False)]
            if stop and any(result.verdict != "accepted" for result in results):
                break
        if stop:
            failed = next((i for i, result in enumerate(results) if result.verdict != "accepted"), len(results))
            results = results[: failed + 1]
        return results


def _first_group(tests: list[Test]) -> list[Test]:
    """The leading tests of one sort: scripts or calls."""
    calls = tests[0].call is not None
    for index, test in enumerate(tests):
        if (test.call is not None) != calls:
            return tests[:index]
    return tests


def _message(program: Program, language: Language, tests: list[Test], limits: Limits, stop: bool) -> dict[str, Any]:
    """What goes inside. Built from the tests' inputs alone: expected outputs stay here."""
    if tests[0].call is not None:
        steps = [{"stdin": "", "calls": [test.call for test in tests]}]
    else:
        steps = [{"stdin": (test.stdin or "").encode().decode("latin-1"), "calls": []} for test in tests]
    return {
        "source": program.source,
        "source_name": language.source,
        "files": program.files,
        "argv": command(language.run, limits.memory_bytes) if language.run else None,
        "compile": command(language.compile, limits.memory_bytes) if language.compile else None,
        "address_space": language.address_space,
        "limits": asdict(limits),
        "compile_limits": asdict(COMPILE_LIMITS),
        "steps": steps,
        "stop": stop,
    }


def _deadline(language: Language, tests: list[Test], limits: Limits) -> float:
    compiling = COMPILE_LIMITS.wall_s if language.compile else 0.0
    return _STARVED * (compiling + limits.wall_s * (len(tests) + 1)) + _SLACK_S
