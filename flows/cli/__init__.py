"""The `ringflow` command. Heavy imports stay inside the commands: `ringflow --help` answers in under a second."""

from __future__ import annotations


def main() -> None:
    from flows.cli.app import run_app

    run_app()
