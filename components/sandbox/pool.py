"""The sandbox as the rest of the house sees it: programs in, verdicts out, from any thread.

Workers start at the first use and stay warm; an idle one only waits on a socket. A worker that dies or stays silent is
replaced and the program is run once more; a second failure is an infrastructure error, never a verdict on the program.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from components.failures import BadInput, InfrastructureError
from components.sandbox.compile_cache import CompileCache
from components.sandbox.conversation import Conversation, MemoryEnded
from components.sandbox.languages import LANGUAGES, Language, find_language, missing_tools
from components.sandbox.slots import Saturated, Slots
from components.sandbox.types import COMPILE_LIMITS, Limits, Program, RunResult, Test, TestResult, Tier
from components.sandbox.worker import Worker
from components.telemetry import metrics

_CACHE_BYTES = 256 << 20
_open: weakref.WeakSet[Sandbox] = weakref.WeakSet()


class Sandbox:
    """A pool of sandboxed workers.

    Args:
        workers: programs that run at the same time.
        tier: weakest isolation allowed; the one in force is in every result.
        max_processes: largest `Limits.processes` a program may have.
        worker_memory_bytes: largest memory of all processes of a program, where a memory control group is writable.
        wait_s: how long a program waits for a free worker, when it has no deadline of its own.
        max_waiting: programs that may wait at one time; one more raises Saturated.
        cpus: processors' worth of time for one program, where a cpu control group is writable.
        libraries: packages programs may import besides the standard library; imported once, before the fork.
        cache_bytes: what the compile cache may hold.
    """

    def __init__(
        self,
        workers: int = 2,
        tier: Tier = "strict",
        *,
        max_processes: int = 64,
        worker_memory_bytes: int = 2 << 30,
        wait_s: float = 600.0,
        max_waiting: int = 10_000,
        cpus: float = 2.0,
        libraries: Sequence[str] = (),
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if workers < 1:
            raise BadInput(f"a sandbox needs at least one worker, not {workers}", where="workers")
        self.workers, self.weakest = workers, tier
        self._max_processes, self._memory, self._wait_s = max_processes, worker_memory_bytes, wait_s
        self._cpus, self._libraries = cpus, tuple(libraries)
        self._slots: Slots[Worker | None] = Slots([None] * workers, max_waiting)
        self.cache = CompileCache(cache_bytes)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()
        _open.add(self)

    def run(
        self,
        program: Program,
        tests: Sequence[Test],
        limits: Limits | None = None,
        *,
        stop_at_first_failure: bool = False,
        deadline_s: float | None = None,
        fetch: Sequence[str] = (),
        compile_limits: Limits = COMPILE_LIMITS,
    ) -> RunResult:
        """Runs one program on its tests; each test of a script is a process of its own, calls share one.

        Args:
            deadline_s: seconds from now within which it must have begun; nearer deadlines go first.
            fetch: patterns of files to bring back from the working directory after each test.
        Raises:
            BadInput: unknown language, a call in a language other than Python, a file name that leaves the directory.
            Saturated: too many programs wait.
            InfrastructureError: the pool is closed. A failure of the machine is a result with that verdict instead.
        """
        language = self._check(program, tests)
        result = self._run(
            program, language, tests, limits or Limits(), stop_at_first_failure, deadline_s, fetch, compile_limits
        )
        metrics.add("ringflow_sandbox_programs_total", language=language.name, verdict=result.verdict)
        metrics.took("ringflow_sandbox_program_seconds", result.seconds)
        return result

    def _run(
        self,
        program: Program,
        language: Language,
        tests: Sequence[Test],
        limits: Limits,
        stop_at_first_failure: bool,
        deadline_s: float | None,
        fetch: Sequence[str],
        compile_limits: Limits,
    ) -> RunResult:
        started = time.monotonic()
        deadline = started + (self._wait_s if deadline_s is None else deadline_s)
        missing = missing_tools(language)
        if missing:
            detail = f"{language.name} needs {', '.join(missing)}, which this machine lacks"
            return RunResult("unavailable", (), self.weakest, language.name, 0.0, detail)
        talk = Conversation(program, language, tests, limits, compile_limits, stop_at_first_failure, fetch, self.cache)
        problem = ""
        for _ in range(2):
            try:
                tier = self._converse(talk, deadline)
                break
            except MemoryEnded as error:
                tier, problem = error.tier, ""
                break
            except Saturated:
                raise
            except InfrastructureError as error:
                if self._closed:
                    raise
                problem = str(error)
        else:
            seconds = time.monotonic() - started
            return RunResult("infrastructure-error", tuple(talk.results), self.weakest, language.name, seconds, problem)
        return self._result(talk, tier, language, time.monotonic() - started)

    def run_many(
        self,
        jobs: Sequence[tuple[Program, Sequence[Test]]],
        limits: Limits | None = None,
        *,
        stop_at_first_failure: bool = False,
        deadline_s: float | None = None,
    ) -> list[RunResult]:
        """Runs many programs over all workers; results in the order of the jobs. `deadline_s`: as in `run`, for all."""
        for program, tests in jobs:
            self._check(program, tests)
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="sandbox")
        ends = None if deadline_s is None else time.monotonic() + deadline_s

        def one(program: Program, tests: Sequence[Test]) -> RunResult:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            return self.run(program, tests, limits, stop_at_first_failure=stop_at_first_failure, deadline_s=left)

        futures = [self._threads.submit(one, program, tests) for program, tests in jobs]
        return [future.result() for future in futures]

    def warm(self) -> Tier:
        """Starts every worker now and tells the tier in force.

        Raises:
            InfrastructureError: no worker starts, or the tier is weaker than allowed; the message has the remedy.
        """
        taken = [self._slots.take(time.monotonic() + self._wait_s) for _ in range(self.workers)]
        try:
            for index, worker in enumerate(taken):
                taken[index] = worker or self._start()
            first = taken[0]
            assert first is not None
            return first.tier
        finally:
            for worker in taken:
                self._slots.give(worker)

    def pids(self) -> list[int]:
        """Process ids of the idle workers' outermost processes."""
        return [worker.pid for worker in self._slots.free() if worker is not None]

    @property
    def waiting(self) -> int:
        """Programs that wait for a worker now."""
        return self._slots.waiting

    def close(self) -> None:
        """Ends every worker and everything in it. Safe to call twice; programs that run end first."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _open.discard(self)
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        ends = time.monotonic() + self._wait_s
        for _ in range(self.workers):
            worker = self._slots.take(ends)
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
        language = _known(program)
        for test in tests:
            if language.name != "python" and (test.call is not None or test.unit is not None):
                raise BadInput("calls and unit tests are for Python", where="tests", remedy="Use stdin and expected")
            if test.unit is not None:
                _parses(test.unit)
            if test.checker is not None:
                _known(test.checker)
        return language

    def _start(self) -> Worker:
        return Worker(self.weakest, self._max_processes, self._memory, cpus=self._cpus, libraries=self._libraries)

    def _converse(self, talk: Conversation, deadline: float) -> Tier:
        """Has the conversation with a worker; its tier. A worker that fails is closed and its place is empty then."""
        worker = self._slots.take(deadline)
        try:
            if worker is None:
                worker = self._start()
            tier = worker.tier
            talk.hold(worker, self._memory, self._max_processes)
        except BaseException:
            if worker is not None:
                worker.close()
            worker = None
            raise
        finally:
            self._slots.give(worker)
        return tier

    def _result(self, talk: Conversation, tier: Tier, language: Language, seconds: float) -> RunResult:
        compiled = talk.compile_seconds
        if talk.compile_error is not None:
            return RunResult("compile-error", (), tier, language.name, seconds, talk.compile_error, compiled)
        results: list[TestResult] = talk.results
        verdict = next((result.verdict for result in results if result.verdict != "accepted"), "accepted")
        return RunResult(verdict, tuple(results), tier, language.name, seconds, "", compiled)


def watch_open() -> None:
    """Shows queue and workers of the sandboxes of this process to Prometheus, should it ask."""
    metrics.watch("ringflow_sandbox_waiting", lambda: sum(sandbox.waiting for sandbox in list(_open)))
    metrics.watch("ringflow_sandbox_workers", lambda: sum(sandbox.workers for sandbox in list(_open)))


watch_open()


def _known(program: Program) -> Language:
    """The row of a program's language. Raises BadInput for an unknown one, or a file that leaves the directory."""
    language = find_language(program.language)
    if language is None:
        known = ", ".join(row.name for row in LANGUAGES)
        raise BadInput(f"unknown language {program.language!r}", where="language", remedy=f"Known: {known}")
    for name in program.files:
        if name.startswith("/") or ".." in name.split("/") or not name or "\0" in name:
            raise BadInput(f"file name {name!r} leaves the program's directory", where="files")
    return language


def _parses(unit: str) -> None:
    try:
        compile(unit, "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"the unit tests do not parse: {error}", where="tests") from None
