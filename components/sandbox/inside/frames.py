"""Frames of the control socket: a JSON message with raw bytes beside it; programs and outputs travel as they are.

8 bytes of lengths (message, number of blobs; big endian), 4 bytes for each blob's length, the message, the blobs.
"""

from __future__ import annotations

import json
import struct

LARGEST = 1 << 28
CHUNK = 1 << 16


def pack(message, blobs=()):
    """One frame as bytes."""
    body = json.dumps(message).encode("ascii")
    head = struct.pack(f">II{len(blobs)}I", len(body), len(blobs), *map(len, blobs))
    return b"".join((head, body, *blobs))


class Reader:
    """Takes frames from `recv(count)`, which returns at most that many bytes and none at the end.

    It reads ahead: most frames take one system call. held: bytes that came before.
    """

    def __init__(self, recv, held=b""):
        self._recv, self._held = recv, bytearray(held)

    def frame(self):
        """(message, blobs).

        Raises:
            EOFError: the stream ended.
            ValueError: it announces more than LARGEST bytes.
        """
        length, count = struct.unpack(">II", self._take(8))
        if count > 1 << 16:
            raise ValueError(f"a frame of {count} blobs")
        sizes = struct.unpack(f">{count}I", self._take(4 * count)) if count else ()
        if length + sum(sizes) > LARGEST:
            raise ValueError(f"a frame of {length + sum(sizes)} bytes")
        return json.loads(self._take(length)), [self._take(size) for size in sizes]

    def _take(self, count):
        held = self._held
        while len(held) < count:
            part = self._recv(max(CHUNK, min(count - len(held), 1 << 20)))
            if not part:
                raise EOFError("end of stream")
            held += part
        taken = bytes(held[:count])
        del held[:count]
        return taken
