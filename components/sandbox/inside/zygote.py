"""The warm interpreter: imports once, then forks the supervisor and those that programs are forked from.

Started by worker.py as a script: `zygote.py CONTROL_FD`. It never reads a request: nothing of one program is in the
memory that the next one starts from. Its children are the supervisor (supervisor.py), with which it ends, and the
processes 1 of the programs' namespaces (init.py); the supervisor asks for a new one when the last is not as it was.
"""

from __future__ import annotations

import _ast
import _signal
import _socket
import gc
import importlib
import json
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from inside import init
from inside.child import live
from inside.confine import NOBODY, Settings, check, libc, settle, surrender
from inside.frames import Reader, pack
from inside.program import open_streams

# Loaded before the fork, so that programs find them warm: what solutions of public code sets import. Nothing else is:
# a fork takes the longer the more there is.
WARM = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "io", "itertools", "json", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string",
    "threading", "time", "typing",
)  # fmt: skip
BIND, REMOUNT, RDONLY, NOSUID_NOEXEC = 4096, 32, 1, 10
NEWPID = 0x20000000
NAMESPACES = ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")


def facts(settings):
    """What the host needs to name the tier: namespaces, the program's user, and whether the filter loads."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            settle(settings)
            surrender(settings)
            with open("/proc/self/status") as status:
                said = dict(line.split(":\t", 1) for line in status if ":\t" in line)
            if settings.isolated and any(int(said[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")):
                raise PermissionError("a program would have capabilities")
            os.write(write, bytes([said["Seccomp"] == "2\n", settings.drop_user and os.getuid() == NOBODY]))
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


def rehearse(settings):
    """Does once what every program does: what is made at first use is made here, and shared by all.

    Then hides this package: a program's own module may have the same name.
    """
    os.environ.update({"HOME": settings.tmp, "TMPDIR": settings.tmp})
    open_streams()
    compile("[1, 'a']", "main.py", "eval", _ast.PyCF_ONLY_AST)
    exec(compile("x = [i for i in range(3)]", "main.py", "exec", dont_inherit=True), {})
    json.loads(json.dumps({"a": [1, "b", None]}))
    del sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "inside"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    gc.disable()


def supervise(settings, sock, factory, proc):
    from inside.supervisor import Supervisor  # with modules that no program is to be forked with

    Supervisor(settings, sock.detach(), factory.detach(), proc).serve()


def main():
    sock = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    message, _ = Reader(sock.recv).frame()
    settings = Settings(message)
    if settings.isolated:
        protect_devices()
    proc, own = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY), os.open("/proc/self/ns/pid", os.O_RDONLY)
    sys.path.extend(message["paths"])
    for name in (*WARM, *message["libraries"]):
        importlib.import_module(name)
    sock.sendall(pack(facts(settings)))
    ours, theirs = _socket.socketpair()
    supervising = child(lambda: supervise(settings, sock, theirs, proc), ours)
    sock.close()
    theirs.close()
    rehearse(settings)
    first = None
    while ours.recv(1):
        if first is not None:
            os.waitpid(first, 0)
        if settings.isolated:
            check(libc.unshare(NEWPID), "new pid namespace")
        control, given = _socket.socketpair()
        first = child(lambda control=control: init.main(settings, control, live), ours, given)
        if settings.isolated:
            check(libc.setns(own, NEWPID), "return to the own pid namespace")
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", given.fileno()))
        ours.sendmsg([b"1"], [rights])
        control.close()
        given.close()
    os._exit(os.waitstatus_to_exitcode(os.waitpid(supervising, 0)[1]))


def child(life, *close):
    """Forks a process that lives `life` and ends. close: sockets that are not its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for sock in close:
            sock.close()
        life()
        os._exit(0)
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
    finally:
        os._exit(3)


if __name__ == "__main__":
    main()
