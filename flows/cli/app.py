"""Puts the commands together and turns every failure into one clear message and an exit code.

Exit codes: 0 success, 1 failure, 2 bad input or usage, 3 a critical data gate failed, 130 interrupted. An error that
ringflow raised on purpose prints its message; anything else is a defect: its traceback goes to a log file and the path
is printed.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import typer

from components.failures import BadInput, RingflowError
from components.redact import redact_logs, redacted
from flows.cli import audit, bench, data, deploy, model, run, runs, sandbox, sbom, simulate, stack, tidy

# Typer brings a click of its own and names few of its classes; whoever mistypes an option meets these.
USAGE = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="ringflow",
    help="Run, schedule, rerun and audit the Ring-1T post-training recipe, from a laptop to a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for part in (stack, deploy, run, simulate, runs, tidy, audit, data, sandbox, model, bench, sbom):
    part.register(app)


def run_app() -> None:
    """Entry point of the `ringflow` script."""
    redact_logs()
    try:
        code = app(standalone_mode=False)
    except USAGE as error:
        error.show()
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        code = 130
    except RingflowError as error:
        print(f"ringflow: {error}", file=sys.stderr)
        code = 2 if isinstance(error, BadInput) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        print(f"ringflow: {type(error).__name__}: {redacted(str(error))}", file=sys.stderr)
        print(f"This is a defect. The traceback is in {_keep_traceback()}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


def _keep_traceback() -> Path:
    folder = Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    path.write_text(redacted(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}"))
    return path
