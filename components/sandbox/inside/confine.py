"""What a process gives up for good before foreign code runs in it: user, capabilities, resources, system calls."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

SET_SECCOMP, SET_NO_NEW_PRIVS, SET_DUMPABLE, CAP_AMBIENT, AMBIENT_CLEAR = 22, 38, 4, 47, 4
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class Settings:
    """What the host fixed for the life of this worker.

    isolated: in namespaces of our own. drop_user: we are the namespace's root and NOBODY is mapped, so that a program
    can be a user who owns nothing on the host. seccomp: the filter. processes: bound on processes of the user, 0 for
    the limits of each request. directory: where a worker without namespaces may write.
    """

    def __init__(self, settings):
        self.isolated = settings["isolated"]
        self.drop_user = settings["drop_user"]
        self.seccomp = bytes.fromhex(settings["seccomp"])
        self.processes = settings["processes"]
        self.directory = settings["directory"]


def confine(settings, limits, address_space, cpu_s, dumpable=True):
    """Applies all of it to this process.

    Args:
        cpu_s: processor time after which the kernel ends the process; supervisors look earlier and finer.
        dumpable: False keeps other processes of the same user from this one's memory and descriptors.
    Raises:
        OSError: a step failed; the process must end.
    """
    r = resource

    def bound(kind, value):
        hard = r.getrlimit(kind)[1]
        value = int(value) if hard == r.RLIM_INFINITY else min(int(value), hard)
        r.setrlimit(kind, (value, value))

    cpu = max(1, int(cpu_s + 0.999))
    r.setrlimit(r.RLIMIT_CPU, (cpu, cpu + 1))
    bound(r.RLIMIT_CORE, 0)
    bound(r.RLIMIT_FSIZE, limits["file_bytes"])
    bound(r.RLIMIT_NOFILE, limits["open_files"])
    bound(r.RLIMIT_STACK, 64 << 20)
    bound(r.RLIMIT_NPROC, settings.processes or limits["processes"])
    bound(r.RLIMIT_MEMLOCK, 64 << 10)
    bound(r.RLIMIT_MSGQUEUE, 0)
    if address_space:
        bound(r.RLIMIT_AS, limits["memory_bytes"])
    try:
        with open("/proc/self/oom_score_adj", "w") as score:  # the kernel takes the program before its supervisor
            score.write("1000")
    except OSError:
        if settings.isolated:
            raise
    if settings.isolated:
        if settings.drop_user:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        check(libc.prctl(CAP_AMBIENT, AMBIENT_CLEAR, 0, 0, 0), "clear ambient capabilities")
        header = struct.pack("=Ii", 0x20080522, 0)
        check(libc.capset(header, bytes(24)), "drop capabilities")
    libc.prctl(SET_DUMPABLE, int(dumpable), 0, 0, 0)
    check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    if settings.seccomp:
        code = Filter(len(settings.seccomp) // 8, settings.seccomp)
        check(libc.prctl(SET_SECCOMP, 2, ctypes.byref(code), 0, 0), "seccomp filter")
