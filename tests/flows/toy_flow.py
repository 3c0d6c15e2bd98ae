"""The flow of a few toy stages as an entrypoint, for workers and for `prefect flow-run retry`."""

from __future__ import annotations

from tests.faults.mini import mini
from tests.flows import toy

toy.install()

__all__ = ["mini"]
