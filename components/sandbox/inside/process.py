"""A process for a program: forked before anything is known of it, told its work, held to what its pipes may say."""

from __future__ import annotations

import os
import socket
import time
import traceback

from inside import examiner, program
from inside.frames import pack, receive

CHUNK = 1 << 16
PIPES = ("out", "err", "report", "setup")


class Work:
    """What one process is to do: made of plain values, so that it can be told to a process that runs already."""

    def __init__(self, kind, source, **values):
        self.kind, self.source = kind, source  # program or examiner; text of the program or of its unit tests
        self.limits, self.argv, self.arguments = values["limits"], values["argv"], values["arguments"]
        self.environment, self.address_space = values["environment"], values["address_space"]
        self.directory, self.calls, self.examined = values["directory"], values["calls"], values["examined"]
        self.turns = max(1, len(self.calls))  # parts that have the time limit each
        self.cpu_s = self.limits["cpu_s"] * self.turns + 1

    def told(self):
        """As a frame."""
        values = {name: value for name, value in vars(self).items() if name not in ("source", "turns", "cpu_s")}
        return pack(values, [] if self.source is None else [self.source])

    @classmethod
    def heard(cls, message, blobs):
        return cls(source=blobs[0] if blobs else None, **message)


class Process:
    """A process that was forked before anything was known of its program, and what came through its pipes.

    The first one of a request waits for it ready made; and no process has in its memory what came after its fork.
    """

    def __init__(self, settings):
        self.kept = {name: bytearray() for name in PIPES}
        pipes = {name: os.pipe() for name in PIPES}
        self._tell, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            live(settings, theirs, self._tell, [ends[1] for ends in pipes.values()])
        theirs.close()
        for _, end in pipes.values():
            os.close(end)
        self.names = {pipes[name][0]: name for name in pipes}
        for fd in self.names:
            os.set_blocking(fd, False)
        self.ended = os.pidfd_open(self.pid)
        self.clock = (~self.pid << 3) | 2  # CPUCLOCK_SCHED of the process, see clock_getres(2) and kernel/time
        self.status, self.usage, self.caps = None, None, {}

    def begin(self, work, fds):
        """Tells it what to do. fds: standard input, and the other process of an examination."""
        self.caps = {"out": work.limits["output_bytes"], "err": work.limits["stderr_bytes"],
                     "report": (work.turns + 1) * 2 * program.VALUE_BYTES, "setup": CHUNK}  # fmt: skip
        with self._tell as tell:
            socket.send_fds(tell, [b"\0"], fds)
            tell.sendall(work.told())

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
        """Takes what is left and closes; True when it said more than it may."""
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

    def reap(self):
        _, self.status, self.usage = os.wait4(self.pid, 0)

    def facts(self, broken, seconds, marks):
        """(JSON, blobs) of what happened; the host decides what it means."""
        message = {
            "broken": broken,
            "status": self.status,
            "seconds": seconds,
            "cpu": self.usage.ru_utime + self.usage.ru_stime,
            "memory": self.usage.ru_maxrss * 1024,
            "marks": marks,
        }
        return message, [bytes(self.kept[name]) for name in PIPES]


def live(settings, sock, other, pipes):
    """The whole life of a new process: it waits for its work and becomes it."""
    try:
        other.close()
        _, fds, _, _ = socket.recv_fds(sock, 1, 2)
        message, blobs = receive(sock)
        sock.close()
        if message is None:
            os._exit(0)
        work = Work.heard(message, blobs)
        fds = [fds[0], *pipes, fds[1] if len(fds) > 1 else None]
        del message, blobs, sock
        (program if work.kind == "program" else examiner).run(settings, work, fds)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(127)
