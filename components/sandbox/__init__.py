"""Isolated execution of untrusted programs: `Sandbox`, `Program`, `Test`, `Limits`, `run_file`."""

from components.sandbox.pool import Sandbox
from components.sandbox.run_file import run_file
from components.sandbox.slots import Saturated
from components.sandbox.types import Limits, Program, RunResult, Test, TestResult, Tier, Verdict

__all__ = [
    "Limits",
    "Program",
    "RunResult",
    "Sandbox",
    "Saturated",
    "Test",
    "TestResult",
    "Tier",
    "Verdict",
    "run_file",
]
