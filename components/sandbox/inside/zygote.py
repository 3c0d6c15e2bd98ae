"""The warm interpreter: imports once, then forks a supervisor ahead of every request, whose cost nobody waits for.

Started by worker.py as a script: `zygote.py CONTROL_FD`. It never reads a request itself: nothing of one program is in
the memory that the next one starts from.
"""

from __future__ import annotations

import ast
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from inside import supervisor
from inside.confine import NOBODY, Settings, check, confine, libc
from inside.frames import pack, receive

# Loaded before the fork, so that programs find them warm: what solutions of public code sets import.
WARM = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "io", "itertools", "json", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string",
    "threading", "time", "typing", "unittest",
)  # fmt: skip
BIND, REMOUNT, RDONLY, NOSUID_NOEXEC = 4096, 32, 1, 10
PROBE = {"cpu_s": 1, "file_bytes": 0, "open_files": 16, "processes": 1, "memory_bytes": 0}
NAMESPACES = ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")


def facts(settings):
    """What the host needs to name the tier: namespaces, the program's user, and whether the filter loads."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(write, 3)
            confine(settings, PROBE, False, 1)
            with open("/proc/self/status") as status:
                filtered = any(line.split() == ["Seccomp:", "2"] for line in status)
            os.write(3, bytes([filtered, settings.drop_user and os.getuid() == NOBODY]))
            os._exit(0)
        except BaseException as error:
            os.write(2, f"sandbox: {error!r}\n".encode())
            os._exit(2)
    os.close(write)
    proved = os.read(read, 2).ljust(2, b"\0") if os.waitpid(pid, 0)[1] == 0 else b"\0\0"
    os.close(read)
    return {
        "ready": True,
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES},
        "seccomp": bool(proved[0]),
        "user_dropped": bool(proved[1]),
    }


def protect_devices():
    """Where the host user is root, a program's user may own the device nodes and could change their mode."""
    for device in os.scandir("/dev"):
        if not device.is_symlink():
            flags = REMOUNT | BIND | RDONLY | NOSUID_NOEXEC
            check(libc.mount(None, device.path.encode(), None, flags, None), f"make {device.path} read-only")


def warm(libraries):
    """Imports, then hides this package: a program's own module may have the same name."""
    for name in (*WARM, *libraries):
        importlib.import_module(name)
    ast.literal_eval("[1, 'a']")
    del sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "inside"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    gc.disable()


def main():
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    message, _ = receive(sock)
    settings = Settings(message)
    if settings.isolated:
        protect_devices()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    sys.path.extend(message["paths"])
    warm(message["libraries"])
    sock.sendall(pack(facts(settings)))
    while True:
        if settings.isolated:
            check(libc.unshare(supervisor.NEWPID), "new pid namespace")
        pid = os.fork()
        if pid == 0:
            try:
                supervisor.main(settings, sock)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(3)
        status = os.waitpid(pid, 0)[1]
        if settings.isolated:
            check(libc.setns(own, supervisor.NEWPID), "return to the own pid namespace")
        sock.setblocking(True)
        if status:
            os._exit(4)  # the host sees the end of the stream and starts a new worker
        if select.select([sock], [], [], 0)[0] and not sock.recv(1, socket.MSG_PEEK):
            os._exit(0)


if __name__ == "__main__":
    main()
