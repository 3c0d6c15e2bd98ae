"""A process for a program, as the supervisor sees it: forked before anything is known of it, then told its work and
held to what its pipes may say."""

from __future__ import annotations

import _socket
import contextlib
import os
import signal
import struct
import sys
import time

from inside.frames import CHUNK
from inside.init import CREDENTIALS, FORK
from inside.program import VALUE_BYTES

PIPES = ("out", "err", "report")
_SOCKET, _SCM_RIGHTS = _socket.SOL_SOCKET, _socket.SCM_RIGHTS
_ROOM = _socket.CMSG_SPACE(4) + _socket.CMSG_SPACE(12)


class Process:
    """A process that waits for its program, and later what came through its pipes."""

    def __init__(self, control, proc):
        """Asks process 1 for it over `control`. proc: a descriptor of the /proc of this namespace."""
        control.sendall(FORK)
        data, ancillary, _, _ = control.recvmsg(1, _ROOM)
        if not data:
            raise EOFError("process 1 of the programs has ended")
        content = {kind: data for _, kind, data in ancillary}
        (tell,) = struct.unpack("=i", content[_SCM_RIGHTS])
        self.pid, _, _ = struct.unpack("=iII", content[CREDENTIALS])
        self.ended = os.pidfd_open(self.pid)
        adjust = os.open(f"{self.pid}/oom_score_adj", os.O_WRONLY, dir_fd=proc)
        os.write(adjust, b"1000")  # the kernel takes the program before its supervisor
        os.close(adjust)
        self._tell = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, tell)
        self.clock = (~self.pid << 3) | 2  # CPUCLOCK_SCHED of the process, see clock_getres(2) and kernel/time
        self.names, self.kept, self.caps = {}, {name: bytearray() for name in PIPES}, {}

    def begin(self, limits, turns, told, fds):
        """Tells it what to do.

        Args:
            turns: parts that have the time limit each. told: marshalled, for child.py.
            fds: standard input, and the other process of an examination.
        """
        self.caps = {"out": limits["output_bytes"], "err": limits["stderr_bytes"],
                     "report": (turns + 1) * 2 * VALUE_BYTES}  # fmt: skip
        pipes = [os.pipe() for _ in PIPES]
        for name, (end, _) in zip(PIPES, pipes, strict=True):
            os.set_blocking(end, False)
            self.names[end] = name
        theirs = [fds[0], *(end for _, end in pipes), *fds[1:]]
        message = b"".join((len(told).to_bytes(4, sys.byteorder), told))
        rights = struct.pack(f"={len(theirs)}i", *theirs)
        sent = self._tell.sendmsg([message], [(_SOCKET, _SCM_RIGHTS, rights)])
        if sent < len(message):
            self._tell.sendall(memoryview(message)[sent:])
        for _, end in pipes:
            os.close(end)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.ended, signal.SIGKILL)

    def cpu(self):
        try:
            return time.clock_gettime(self.clock)
        except OSError:
            return 0.0

    def take(self, fd):
        """One read: True when there may be more, False when not, None when it said more than it may."""
        name = self.names[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            os.close(fd)
            del self.names[fd]
            return False
        room = self.caps[name] - len(self.kept[name])
        self.kept[name] += data[:room]
        return None if len(data) > room and name != "err" else True

    def drain(self):
        """Takes what is left when the process is gone, and closes; True when it said more than it may."""
        over = False
        for fd in list(self.names):
            more = True
            while more:
                more = self.take(fd)
            over = over or more is None
        for fd in self.names:
            os.close(fd)
        os.close(self.ended)
        return over

    def failure(self):
        """Why it could not be prepared; empty when it could: it closes its socket before foreign code runs."""
        try:
            return self._tell.recv(CHUNK)
        except ConnectionResetError:
            return b""
        finally:
            self._tell.close()
