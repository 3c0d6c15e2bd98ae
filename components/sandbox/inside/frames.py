"""Frames of the control socket: a JSON message with raw bytes beside it; programs and outputs travel as they are.

8 bytes of lengths (message, number of blobs; big endian), 4 bytes for each blob's length, the message, the blobs.
"""

from __future__ import annotations

import json
import struct

LARGEST = 1 << 28


def pack(message, blobs=()):
    """One frame as bytes."""
    body = json.dumps(message).encode("ascii")
    head = struct.pack(f">II{len(blobs)}I", len(body), len(blobs), *map(len, blobs))
    return b"".join((head, body, *blobs))


def unpack(read):
    """(message, blobs) from `read(count)`, which returns exactly that many bytes.

    Raises:
        ValueError: it announces more than LARGEST bytes.
    """
    length, count = struct.unpack(">II", read(8))
    if count > 1 << 16:
        raise ValueError(f"a frame of {count} blobs")
    sizes = struct.unpack(f">{count}I", read(4 * count)) if count else ()
    if length + sum(sizes) > LARGEST:
        raise ValueError(f"a frame of {length + sum(sizes)} bytes")
    return json.loads(read(length)), [read(size) for size in sizes]


def receive(sock):
    """A frame from a blocking socket, or (None, []) at its end."""

    def read(count):
        parts = []
        while count:
            part = sock.recv(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    try:
        return unpack(read)
    except EOFError:
        return None, []
