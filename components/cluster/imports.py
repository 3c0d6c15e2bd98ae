"""Heavy imports without the cycle collector.

It runs after every 700 new objects and finds nothing while modules are made, which stay as long as the process: that is
a quarter of the time of importing megatron-core, a tenth of vLLM's. What is there afterwards is taken out of its sight
(gc.freeze), so that no later collection walks through it; vLLM asks for five at its start.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports() -> Iterator[None]:
    """Around imports; costs nothing where all of it is imported already."""
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if enabled:
            gc.enable()
