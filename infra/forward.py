"""Hands TCP connections on: `python -m infra.forward HOST:PORT HOST:PORT`, from the first address to the second.

For a server that guards one of its ports and binds all of them to one address (SeaweedFS, infra/compose.yaml): it
listens on loopback, and this is the only way in from outside.
"""

from __future__ import annotations

import asyncio
import socket
import sys

CONNECT_DEADLINE_S = 10.0
# Beyond this much unsent data one side is not read until the other has caught up.
BUFFER_BYTES = 4 * 1024**2

Address = tuple[str, int]


class Side(asyncio.Protocol):
    """One of the two connections; what it receives, the other one sends. An end of stream and a loss are passed on."""

    transport: asyncio.Transport

    def __init__(self, other: Side | None = None) -> None:
        self.other, self.ended = other, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(BUFFER_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._other.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self._other.ended:
            return False  # closes this one, which closes the other
        self._other.transport.write_eof()
        return True  # the answer may still be on its way

    def pause_writing(self) -> None:
        self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        self._other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.abort() if error else self.other.transport.close()

    @property
    def _other(self) -> Side:
        assert self.other is not None
        return self.other


class Accepted(Side):
    """The side that came in: nothing is read from it until the way on is open."""

    def __init__(self, target: Address) -> None:
        super().__init__()
        self.target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        opened = asyncio.get_running_loop().create_connection(lambda: Side(self), *self.target)
        try:
            _, onward = await asyncio.wait_for(opened, CONNECT_DEADLINE_S)
        except (OSError, TimeoutError) as error:
            print(f"{self.target[0]}:{self.target[1]}: {error or 'no answer'}", file=sys.stderr, flush=True)
            self.transport.abort()
            return
        self.other = onward
        if self.transport.is_closing():
            onward.transport.close()
        else:
            self.transport.resume_reading()


async def forward(here: Address, target: Address) -> None:
    """Until it is cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Accepted(target), *here)
    async with server:
        await server.serve_forever()


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        sys.exit(f"{text!r} is not HOST:PORT")
    return host, int(port)


if __name__ == "__main__":
    asyncio.run(forward(*map(address, sys.argv[1:3])))
