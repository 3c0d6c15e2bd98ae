"""One file through the sandbox: what `ringflow sandbox run` does."""

from __future__ import annotations

from pathlib import Path

from components.failures import BadInput, InfrastructureError
from components.sandbox.pool import Sandbox
from components.sandbox.types import Limits, Program, RunResult, Test, Tier


def run_file(
    language: str, path: str | Path, stdin: str = "", *, limits: Limits | None = None, tier: Tier = "strict"
) -> RunResult:
    """Runs the program in `path` once with the text `stdin` as standard input; any orderly end is `accepted`.

    Raises:
        BadInput: the file cannot be read as text, or the language is unknown.
        InfrastructureError: this machine cannot isolate a program at `tier`, or the sandbox failed twice.
    """
    try:
        source = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the program: {error}", where=str(path)) from error
    with Sandbox(workers=1, tier=tier) as sandbox:
        result = sandbox.run(Program(language, source), [Test(stdin=stdin)], limits)
    if result.verdict == "infrastructure-error":
        raise InfrastructureError(result.detail)
    return result
