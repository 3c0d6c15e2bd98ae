"""What goes into the sandbox and what comes out. Expected outputs stay with the host: they are never sent inside."""

from __future__ import annotations

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
"""`strict`: own user, pid, net, ipc, uts and mount namespaces, read-only system, seccomp filter, bounded processes.
`namespaces`: the namespaces, with seccomp or the bound on processes missing. `rlimits`: resource limits only, no
isolation from the host's files or network; for machines without user namespaces, and only when asked for by name."""

TIERS: tuple[Tier, ...] = ("strict", "namespaces", "rlimits")


@dataclass(frozen=True)
class Limits:
    """Bounds of one test. `cpu_s`: processor time; `wall_s`: real time, after which the whole program is killed.

    memory_bytes: address space of a process. tmp_bytes: size of the private /tmp. output_bytes: standard output kept,
    one byte more ends the program. processes: at one time, where the machine can bound them.
    """

    cpu_s: float = 4.0
    wall_s: float = 8.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    stderr_bytes: int = 64 << 10
    file_bytes: int = 32 << 20
    tmp_bytes: int = 64 << 20
    processes: int = 32
    open_files: int = 128


COMPILE_LIMITS = Limits(cpu_s=30, wall_s=60, memory_bytes=4 << 30, tmp_bytes=256 << 20, file_bytes=128 << 20)


@dataclass(frozen=True)
class Program:
    """Source text in one language. `files`: relative name -> text, present in the working directory of every test."""

    language: str
    source: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Test:
    """Either `stdin` (the program runs as a script) or `call` (an expression evaluated after the program, Python only).

    expected: standard output, or the repr of the call's value; None: any orderly end is accepted.
    tolerance: numbers may differ by this much, absolutely or relatively; None: exactly equal.
    """

    __test__ = False  # not a pytest class

    stdin: str | None = None
    call: str | None = None
    expected: str | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.stdin is not None and self.call is not None:
            raise ValueError("a test has standard input or a call, not both")


@dataclass(frozen=True)
class TestResult:
    """One test. `value`: repr of the call's value, or None. memory_bytes: peak resident size of the main process."""

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


@dataclass(frozen=True)
class RunResult:
    """One program. `verdict`: accepted when every test is, else that of the first test that is not.

    tier: isolation in force. detail: compiler output, or why the language or the machine failed. With
    `stop_at_first_failure` the tests after the first failure are left out of `tests`.
    """

    verdict: Verdict
    tests: tuple[TestResult, ...]
    tier: Tier
    language: str
    seconds: float
    detail: str = ""

    @property
    def accepted(self) -> bool:
        return self.verdict == "accepted"
