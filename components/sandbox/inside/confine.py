"""What a process gives up for good before foreign code runs in it: user, capabilities, resources, system calls.

`settle` once, by process 1, whose children inherit it; `surrender` by each child while it waits for its program;
`bound` by the supervisor, for a child, when its program has come.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

SET_SECCOMP, SET_NO_NEW_PRIVS, SET_DUMPABLE, CAP_AMBIENT, AMBIENT_CLEAR = 22, 38, 4, 47, 4
NOBODY = 65534

OWN_FILES = 16  # a process has some before it is the program
CAPABILITIES_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3

libc = ctypes.CDLL(None, use_errno=True)
_prctl = libc.prctl


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
    the limits of each request. kept: process 1 is safe from programs, by its user or by the filter. tmp, box: where
    programs run, and what they were built from.
    """

    def __init__(self, settings):
        self.isolated = settings["isolated"]
        self.drop_user = settings["drop_user"]
        self.seccomp = bytes.fromhex(settings["seccomp"])
        self.processes, self.kept = settings["processes"], settings["kept"]
        base = "" if self.isolated else settings["directory"]
        self.tmp, self.box = f"{base}/tmp", f"{base}/box"


def _limit(kind, value, pid=0):
    hard = resource.prlimit(pid, kind)[1]
    value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
    resource.prlimit(pid, kind, (value, value))


def settle(settings):
    """What is the same for every program of this worker. Afterwards no call of the filter's list works here either.

    Raises:
        OSError: a step failed; the process must end. So do the other two.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_STACK, 64 << 20)
    _limit(resource.RLIMIT_MEMLOCK, 64 << 10)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    if settings.drop_user:
        held = ctypes.create_string_buffer(24)
        head = struct.pack("=Ii", CAPABILITIES_3, 0)
        check(libc.capget(head, held), "read capabilities")
        words = struct.unpack("=6I", held.raw)
        none_inherited = struct.pack("=6I", words[0], words[1], 0, words[3], words[4], 0)
        check(libc.capset(head, none_inherited), "give up inheritable capabilities")
    check(_prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    if settings.seccomp:
        code = Filter(len(settings.seccomp) // 8, settings.seccomp)
        check(_prctl(SET_SECCOMP, 2, ctypes.byref(code), 0, 0), "seccomp filter")


def surrender(settings):
    """User and capabilities. Nobody can look into this process afterwards, its later siblings neither."""
    if settings.drop_user:  # with root's user go its capabilities, see capabilities(7); zygote.py proves it
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    elif settings.isolated:
        check(_prctl(CAP_AMBIENT, AMBIENT_CLEAR, 0, 0, 0), "clear ambient capabilities")
        check(libc.capset(struct.pack("=Ii", CAPABILITIES_3, 0), bytes(24)), "drop capabilities")
    _prctl(SET_DUMPABLE, 0, 0, 0, 0)


def unveil():
    """Lets the program, and its children, read what is its own."""
    _prctl(SET_DUMPABLE, 1, 0, 0, 0)


def bound(settings, pid, limits, address_space, cpu_s):
    """Resources of a program, set from outside.

    Args:
        cpu_s: processor time after which the kernel ends the process; supervisors look earlier and finer.
    """
    cpu = max(1, int(cpu_s + 0.999))
    resource.prlimit(pid, resource.RLIMIT_CPU, (cpu, cpu + 1))
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"], pid)
    _limit(resource.RLIMIT_NOFILE, max(OWN_FILES, limits["open_files"]), pid)
    _limit(resource.RLIMIT_NPROC, settings.processes or limits["processes"], pid)
    if address_space:
        _limit(resource.RLIMIT_AS, limits["memory_bytes"], pid)
