"""A process from its fork to the moment foreign code runs in it, or the tests of foreign code.

Every object that is touched here costs a page to copy, of which a small program has few: hence the C modules below the
friendlier ones, and whatever the parents can do is done by them: filter and unchanging limits by process 1 (init.py),
the program's own limits by the supervisor, streams and environment by the zygote.
"""

from __future__ import annotations

import _signal
import contextlib
import marshal
import os
import struct

from inside import examiner, program
from inside.confine import surrender, unveil
from inside.program import PEER, REPORT, SETUP

CHUNK = 1 << 16
_LENGTH = struct.Struct("=I")
_FDS = [struct.Struct(f"={count}i").unpack for count in range(6)]
_ROOM = 64  # of control data, more than five descriptors take
_SIGINT, _INTERRUPT = _signal.SIGINT, _signal.default_int_handler


def live(settings, sock):
    """The whole life of a process after its fork: it prepares itself, waits for its work and becomes it.

    sock: SETUP, a socket that speaks one message: 4 bytes of length, then a marshalled tuple (kind, values); with it
    come the descriptors of stdin, out, err, report and perhaps the peer.
    """
    os.setsid()
    surrender(settings)
    _signal.signal(_SIGINT, _INTERRUPT)
    data, ancillary, _, _ = sock.recvmsg(CHUNK, _ROOM)
    if not data:
        os._exit(0)
    try:
        (length,) = _LENGTH.unpack_from(data)
        while len(data) < 4 + length:
            more = sock.recv(4 + length - len(data))
            if not more:
                os._exit(0)
            data += more
        take_places(ancillary[0][2])
        kind, values = marshal.loads(memoryview(data)[4:])
        if kind == "examiner":
            examiner.run(**values)
        else:
            unveil()
            program.run(settings, **values)
    except BaseException as error:  # foreign code ends the process itself: only the preparation fails with SETUP open
        with contextlib.suppress(OSError):
            os.write(SETUP, repr(error).encode())
    finally:
        os._exit(127)


def take_places(rights):
    """Moves what was received, from 3 on, to where programs expect it.

    SETUP tells the supervisor that the preparation failed; it is closed before foreign code runs, here or by exec.
    """
    fds = _FDS[len(rights) // 4](rights)
    if fds != (3, 4, 5, 6, 7)[: len(fds)]:
        raise RuntimeError(f"descriptors {fds}")
    os.dup2(3, 0)
    os.dup2(4, 1)
    os.dup2(5, 2)
    os.dup2(6, REPORT, False)
    if len(fds) > 4:
        os.dup2(7, PEER, False)
        os.close(4)
        os.closerange(PEER + 1, SETUP)
    else:
        os.closerange(REPORT + 1, SETUP)
