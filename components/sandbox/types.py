"""What goes into the sandbox and what comes out. Expected outputs stay with the host: they are never sent inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal[
    "accepted",
    "wrong-answer",
    "time-limit",
    "memory-limit",
    "runtime-error",
    "compile-error",
    "output-limit",
    "security-violation",
    "unavailable",
    "infrastructure-error",
]
"""`unavailable`: the language is declared but not installed here. Only `infrastructure-error` is retried, and neither
of the two says anything about the program."""

Tier = Literal["strict", "namespaces", "rlimits"]
"""`strict`: own user, pid, net, ipc, uts, cgroup and mount namespaces, read-only system, seccomp filter, bounded
processes, and a user who owns nothing on the host. `namespaces`: the namespaces, with one of the rest missing.
`rlimits`: resource limits only, no isolation from the host's files or network; for machines without user namespaces.
A tier below `strict` is taken only when it is asked for by name."""

TIERS: tuple[Tier, ...] = ("strict", "namespaces", "rlimits")


@dataclass(frozen=True)
class Limits:
    """Bounds of one test. `cpu_s`: processor time; `wall_s`: real time, after which the whole program is killed.

    memory_bytes: address space of a process, and memory of all its processes together where a control group is
    writable. tmp_bytes: size of the private /tmp. output_bytes: standard output kept, one byte more ends the program.
    processes: at one time, threads included, where the machine can bound them.
    """

    cpu_s: float = 4.0
    wall_s: float = 8.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    stderr_bytes: int = 64 << 10
    file_bytes: int = 32 << 20
    tmp_bytes: int = 64 << 20
    processes: int = 64
    open_files: int = 256


COMPILE_LIMITS = Limits(
    cpu_s=60,
    wall_s=120,
    memory_bytes=4 << 30,
    tmp_bytes=512 << 20,
    file_bytes=256 << 20,
    processes=256,
    open_files=1024,
)


@dataclass(frozen=True)
class Program:
    """Source text in one language. `files`: relative name -> text or bytes, in the working directory of every test."""

    language: str
    source: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Test:
    """One of: `stdin` (the program runs as a script), `call` (an expression evaluated after the program) or `unit` (a
    test file: bare assertions, unittest classes or test_ functions; it may `import solution`). The last two are for
    Python; there the program runs as the module `solution`, not as `__main__`.

    expected: standard output, or the repr of the call's value; None: any orderly end is accepted.
    tolerance: numbers may differ by this much, absolutely or relatively; None: exactly equal.
    checker: a program that judges the output instead, for problems with several right answers. It is started with the
        names of three files, input, output and answer (`expected`), and ends with 0 or 42 for right, 1, 2 or 43 for
        wrong (testlib and the Kattis problem format); anything else is a failure of the checker, not of the program.
    limits: of this test alone, instead of those of the run.
    """

    __test__ = False  # not a pytest class

    stdin: str | None = None
    call: str | None = None
    expected: str | None = None
    tolerance: float | None = None
    unit: str | None = None
    checker: Program | None = None
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.stdin, self.call, self.unit)) > 1:
            raise ValueError("a test has standard input, a call or unit tests, only one of them")
        if self.checker is not None and self.stdin is None:
            raise ValueError("a checker judges what a program prints: the test needs standard input")


@dataclass(frozen=True)
class TestResult:
    """One test. `value`: repr of the call's value, `passed/total` of unit tests, or None.

    memory_bytes: peak resident size of the main process. detail: what the checker or the unit tests said.
    files: what `fetch` asked for and the program left behind.
    """

    __test__ = False

    verdict: Verdict
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    detail: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """One program. `verdict`: accepted when every test is, else that of the first test that is not.

    tests: results in the order of the tests; those that ran before a failure of the machine too (partial results).
    tier: isolation in force. detail: compiler output, or why the language or the machine failed. With
    `stop_at_first_failure` the tests after the first failure are left out of `tests`.
    compile_seconds: None where nothing was compiled, 0 when the compile cache had it.
    """

    verdict: Verdict
    tests: tuple[TestResult, ...]
    tier: Tier
    language: str
    seconds: float
    detail: str = ""
    compile_seconds: float | None = None

    @property
    def accepted(self) -> bool:
        return self.verdict == "accepted"
