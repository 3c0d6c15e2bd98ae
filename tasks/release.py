"""Ends learners and engines that a process keeps warm, without importing Ray where none was started."""

from __future__ import annotations

import sys


def release_workers() -> None:
    """Ends warm learners and engines, if this process ever started any."""
    warm = sys.modules.get("components.cluster.warm")
    if warm is not None:
        warm.release_all()
