"""Process 1 of the programs' namespace: forks them ahead, reaps them, leaves none of them. It hears nothing of any.

A program is one fork of this process, which holds warm imports and not a byte of a program, a test or an output. The
kernel lets no process of the namespace kill it, nor trace or read it, since it keeps its capabilities; the filter lets
none set its limits or priority, should it have the same user; and the kernel gives it every orphan: when wait4 has no
child left, nothing is left in the namespace.

Commands of the supervisor are one byte: FORK (answered with the child's socket and, as credentials, which the kernel
translates, its pid), END (wait for the child forked last, kill and reap all others; answered with what became of them).
The end of the socket ends the process, and that ends the namespace. After a fork every page that this process touches
is copied, so it touches few.
"""

from __future__ import annotations

import _random
import _signal
import _socket
import contextlib
import ctypes
import os
import random
import struct

from inside.confine import SET_DUMPABLE, check, libc, settle

FORK, END = b"f", b"e"
CREDENTIALS = 2  # SCM_CREDENTIALS of unix(7), which the module does not name
NOSUID_NODEV_NOEXEC, SET_CHILD_SUBREAPER = 14, 36
TOLD, CONTROL = 9, 10  # a child's socket to the supervisor (program.SETUP), and this process's own
ENDED = struct.Struct("=idq")  # wait status, processor seconds, peak KiB

_socketpair, _Socket = _socket.socketpair, _socket.socket
_UNIX, _STREAM, _SOCKET, _RIGHTS = _socket.AF_UNIX, _socket.SOCK_STREAM, _socket.SOL_SOCKET, _socket.SCM_RIGHTS
_ONE, _WHO = struct.Struct("=i"), struct.Struct("=iII")
_USER, _GROUP = os.getuid(), os.getgid()
_RANDOM, _seed = random.seed.__self__, _random.Random.seed

# os.fork() runs handlers of modules in the child, a quarter of the time that a small program takes: they renew locks
# that another thread might hold, and this process has no other thread; and they seed `random`, which is done here.
_fork = ctypes.PyDLL(None).fork


def main(settings, sock, live):
    """The whole life of process 1. live: what a child does, given the settings and its socket."""
    if settings.isolated:
        # Processes alone: a program needs no system settings, and some kernels show more there than they should.
        check(libc.mount(b"proc", b"/proc", b"proc", NOSUID_NODEV_NOEXEC, b"subset=pid"), "mount /proc (Linux 5.8)")
    else:
        check(libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become the reaper")
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    for number in (_signal.SIGPIPE, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)  # process 1 of a namespace gets no signal from inside that it ignores
    settle(settings)
    os.dup2(sock.detach(), CONTROL, False)
    os.closerange(3, CONTROL)  # what the zygote had open
    os.closerange(CONTROL + 1, 256)
    sock = _Socket(_UNIX, _STREAM, 0, CONTROL)
    children = []
    while True:
        command = sock.recv(1)
        if command == FORK:
            children.append(_start(sock, settings, live))
        elif command == END:
            sock.sendall(_ended(settings, children))
            children = []
        else:
            return


def _start(sock, settings, live):
    _seed(_RANDOM, int.from_bytes(os.urandom(16), "big"))  # or all programs would draw the same numbers
    ours, theirs = _socketpair()
    os.dup2(theirs.fileno(), TOLD, False)
    theirs.close()
    told = _Socket(_UNIX, _STREAM, 0, TOLD)
    pid = _fork()
    if pid == 0:
        os.closerange(3, TOLD)
        os.closerange(TOLD + 1, 32)
        live(settings, told)
    if pid < 0:
        raise BlockingIOError("no process for the next program")
    told.close()
    rights, who = _ONE.pack(ours.fileno()), _WHO.pack(pid, _USER, _GROUP)
    sock.sendmsg([FORK], [(_SOCKET, _RIGHTS, rights), (_SOCKET, CREDENTIALS, who)])
    ours.close()
    return pid


def _ended(settings, children):
    """Waits for the child forked last, then ends all others: an ENDED of each child, and whether there were more."""
    _, status, usage = os.wait4(children[-1], 0)
    done, more = {children[-1]: _packed(status, usage)}, False
    try:
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                _kill_others(settings)
                pid, status, usage = os.wait4(-1, 0)
            if pid in children:
                done[pid] = _packed(status, usage)
            else:
                more = True
    except ChildProcessError:
        return b"".join([done[pid] for pid in children]) + (b"\1" if more else b"\0")


def _packed(status, usage):
    return ENDED.pack(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def _kill_others(settings):
    """All of the namespace; without one, all descendants, whose reaper this process is."""
    with contextlib.suppress(ProcessLookupError):
        if settings.isolated:
            os.kill(-1, _signal.SIGKILL)
            return
        with open(f"/proc/self/task/{os.getpid()}/children") as those:
            for pid in those.read().split():
                os.kill(int(pid), _signal.SIGKILL)
