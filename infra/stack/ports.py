"""Free loopback ports, chosen once and remembered.

Ports come from below the range that the kernel hands to outgoing connections (32768 upward), else a client's
connection can take a server's port between two starts. SeaweedFS also listens on port + 10000, so its ports end at
22767 and both must be free.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from components.failures import InfrastructureError

GRPC_OFFSET = 10_000
LOWEST, HIGHEST_PAIRED, HIGHEST = 20_000, 22_767, 29_999


def free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((address, port))
            except OSError:
                return False
    return True


def choose(taken: Collection[int], *, paired: bool = False) -> int:
    """A free port outside `taken`; `paired` ones have port + 10000 free as well.

    Raises:
        InfrastructureError: none was found in 200 tries.
    """
    lowest, highest = (LOWEST, HIGHEST_PAIRED) if paired else (HIGHEST_PAIRED + 1, HIGHEST)
    for _ in range(200):
        port = random.randint(lowest, highest)
        if port not in taken and free(port) and (not paired or free(port + GRPC_OFFSET)):
            return port
    raise InfrastructureError(f"no free port between {lowest} and {highest} on 127.0.0.1 after 200 tries")
