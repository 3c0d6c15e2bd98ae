"""The pull step of the deployments: the worker runs the ringflow that is installed where it is.

Prefect fills an empty `pull` with the directory of the machine that deployed; a step that fetches nothing keeps machine
paths out of the deployment, and tells in the run's log which installation runs.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed() -> dict[str, str]:
    """{"version": ...} of the installed package; fails where it is only a directory on somebody's path."""
    try:
        return {"version": version("ringflow")}
    except PackageNotFoundError as error:
        raise RuntimeError("ringflow is not installed in the worker's environment; run `make install`") from error
