"""Runs inside the sandbox: one warm interpreter that forks a fresh, isolated child for every program.

Started by worker.py as a script of the standard library alone. Three kinds of process, of which only the last ever runs
foreign code:
  zygote      keeps the imports warm, and forks one supervisor ahead of every request, so its cost is not waited for;
  supervisor  is process 1 of fresh pid and mount namespaces with its own /proc and /tmp; takes one request, starts one
              child per test, bounds its time and output, kills everything that is left, answers, and ends;
  child       gives up its capabilities, takes limits and the seccomp filter, and runs the program.
Process 1 keeps its capabilities: the kernel then lets no child trace it or open its memory. Its death ends the
namespace, and with it every descendant, however it daemonised. Expected outputs are not here, so nothing printed here
can prove an answer right. The idea of forking a warm interpreter is Android's zygote.

Frames on the control socket: 4 bytes of length (big endian), then JSON; bytes travel as latin-1 text.
"""

# Loaded before the fork, so that programs find them warm.
import array  # noqa: F401
import ast
import builtins
import contextlib
import ctypes
import fcntl
import gc
import heapq  # noqa: F401
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback

NEWNS, NEWPID = 0x00020000, 0x20000000
NOSUID_NODEV, NOSUID_NODEV_NOEXEC = 6, 14
NOSUID_NOEXEC, DETACH, REMOUNT, RDONLY, BIND = 10, 2, 32, 1, 4096
SET_SECCOMP, SET_NO_NEW_PRIVS, SET_DUMPABLE, SET_CHILD_SUBREAPER, CAP_AMBIENT, AMBIENT_CLEAR = 22, 38, 4, 36, 47, 4
CHUNK = 1 << 16
VALUE_BYTES = 1 << 20
STARVED = 3  # a starved program gets at most this many times its real time on top

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def read_exactly(sock, count):
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(sock):
    head = read_exactly(sock, 4)
    if head is None:
        return None
    body = read_exactly(sock, struct.unpack(">I", head)[0])
    return None if body is None else json.loads(body)


def send(sock, message):
    body = json.dumps(message).encode("ascii")
    sock.sendall(struct.pack(">I", len(body)) + body)


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class Settings:
    """What the host fixed for the life of this worker."""

    def __init__(self, settings):
        self.isolated = settings["isolated"]
        self.seccomp = bytes.fromhex(settings["seccomp"])
        self.processes = settings["processes"]


# ---- child -----------------------------------------------------------------------------------------------------------


def confine(settings, limits, address_space):
    """Limits, no capabilities, no way to new privileges, then the system call filter: nothing here can be undone."""
    r = resource

    def bound(kind, value):
        hard = r.getrlimit(kind)[1]
        value = int(value) if hard == r.RLIM_INFINITY else min(int(value), hard)
        r.setrlimit(kind, (value, value))

    cpu = max(1, int(limits["cpu_s"] + 0.999))
    r.setrlimit(r.RLIMIT_CPU, (cpu, cpu + 1))
    bound(r.RLIMIT_CORE, 0)
    bound(r.RLIMIT_FSIZE, limits["file_bytes"])
    bound(r.RLIMIT_NOFILE, limits["open_files"])
    bound(r.RLIMIT_STACK, 64 << 20)
    bound(r.RLIMIT_NPROC, settings.processes or limits["processes"])
    bound(r.RLIMIT_MEMLOCK, 64 << 10)
    if address_space:
        bound(r.RLIMIT_AS, limits["memory_bytes"])
    try:
        with open("/proc/self/oom_score_adj", "w") as score:  # the kernel takes the program before its supervisor
            score.write("1000")
    except OSError:
        if settings.isolated:
            raise
    if settings.isolated:
        check(libc.prctl(CAP_AMBIENT, AMBIENT_CLEAR, 0, 0, 0), "clear ambient capabilities")
        header = struct.pack("=Ii", 0x20080522, 0)
        check(libc.capset(header, bytes(24)), "drop capabilities")
        libc.prctl(SET_DUMPABLE, 1, 0, 0, 0)
    check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    if settings.seccomp:
        code = Filter(len(settings.seccomp) // 8, settings.seccomp)
        check(libc.prctl(SET_SECCOMP, 2, ctypes.byref(code), 0, 0), "seccomp filter")


def reset_signals():
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(code):
    """What the interpreter does at exit, without tearing down the warm modules."""
    import atexit

    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        code = code or 1
    os._exit(code)


def exit_code(stop):
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def show_error(report, phase):
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    os.write(report, (json.dumps({"p": phase, "e": kind.__name__}) + "\n").encode())
    try:
        traceback.print_exception(kind, error, trace, limit=20)
    except BaseException:
        os.write(2, kind.__name__.encode())


def run_python(request, calls, report):
    """Runs the program, then evaluates the calls; each value leaves as its repr on the report pipe."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    main = type(sys)("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.argv = ["main.py"]
    sys.path[:] = ["/tmp" if request["isolated"] else os.getcwd(), *sys.path]
    space = main.__dict__
    try:
        code = compile(request["source"], "main.py", "exec", dont_inherit=True)
    except MemoryError:
        show_error(report, "run")
        os._exit(1)
    except BaseException:
        show_error(report, "compile")
        os._exit(1)
    try:
        exec(code, space)
    except SystemExit as stop:
        if not calls:
            finish(exit_code(stop))
    except BaseException:
        show_error(report, "run")
        finish(1)
    for call in calls:
        try:
            value = repr(eval(compile(call, "call", "eval", dont_inherit=True), space))
            line = {"v": value} if len(value) <= VALUE_BYTES else {"e": "OutputTooLarge"}
        except SystemExit:
            line = {"e": "SystemExit"}
        except BaseException as error:
            line = {"e": type(error).__name__, "m": str(error)[:500]}
        line = (json.dumps(line) + "\n").encode()
        while line:
            line = line[os.write(report, line) :]
    finish(0)


def child(settings, request, calls, limits, argv, stdin, out, err, report, setup):
    """Descriptor 4 tells the supervisor that the preparation failed; it is closed before foreign code runs."""
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        setup = fcntl.fcntl(setup, fcntl.F_DUPFD_CLOEXEC, 16)
        os.dup2(fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 16), 3, inheritable=False)
        os.dup2(setup, 4, inheritable=False)
        os.closerange(5, 1024)
        os.chdir(request["cwd"])
        reset_signals()
        confine(settings, limits, request["address_space"])
        if argv is None:
            os.close(4)
            gc.enable()
            run_python(request, calls, 3)
        os.execve(argv[0], argv, {**os.environ, "HOME": request["cwd"], "TMPDIR": request["cwd"]})
    except BaseException as error:  # run_python ends the process itself: only the preparation can fail here
        os.write(4, repr(error).encode())
    os._exit(127)


# ---- supervisor ------------------------------------------------------------------------------------------------------


def end_all(isolated):
    """Kills and reaps every other process of the namespace; without one, every descendant (we are their subreaper)."""
    while True:
        if isolated:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                for pid in children.read().split():
                    os.kill(int(pid), signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if isolated else os.WNOHANG)[0]:
                pass
            time.sleep(0.001)
        except ChildProcessError:
            return


def fresh_directory(request):
    """An empty private working directory with the program's files."""
    if request["isolated"]:
        with os.scandir("/tmp") as entries:
            used = any(True for _ in entries) or request["mounted"] != request["limits"]["tmp_bytes"]
        if used:
            check(libc.umount2(b"/tmp", DETACH), "unmount /tmp")
            mount_tmp(b"/tmp", request["limits"]["tmp_bytes"])
            request["mounted"] = request["limits"]["tmp_bytes"]
    else:
        shutil.rmtree(request["cwd"], ignore_errors=True)
        os.makedirs(request["cwd"])
    write_files(request["cwd"], request["files"])


def write_files(directory, files):
    for name, text in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def mount_tmp(where, size):
    options = f"size={size},nr_inodes=16384,mode=1777".encode()
    check(libc.mount(b"tmpfs", where, b"tmpfs", NOSUID_NODEV, options), f"mount {where.decode()}")


def waited_for_processor(pid):
    """Seconds that the process was ready and had no processor: a busy machine is not the program's fault."""
    try:
        with open(f"/proc/{pid}/schedstat") as times:
            return int(times.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def run_child(settings, sock, request, limits, argv, stdin, calls=()):
    """Starts one child, collects until it ends or breaks a limit, and leaves no process behind.

    Returns the raw facts; the host decides the verdict.
    """
    source = os.memfd_create("stdin")
    os.write(source, b"")
    view = memoryview(stdin)
    while view:
        view = view[os.write(source, view) :]
    os.lseek(source, 0, os.SEEK_SET)
    pipes = {name: os.pipe() for name in ("out", "err", "report", "setup")}
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(settings, request, calls, limits, argv, source, *(ends[1] for ends in pipes.values()))
    os.close(source)
    for _, end in pipes.values():
        os.close(end)
    ended = os.pidfd_open(pid)
    kept = {"out": bytearray(), "err": bytearray(), "report": bytearray(), "setup": bytearray()}
    caps = {
        "out": limits["output_bytes"],
        "err": limits["stderr_bytes"],
        "report": (len(calls) + 1) * (2 * VALUE_BYTES) if calls else CHUNK,
        "setup": CHUNK,
    }
    names = {pipes[name][0]: name for name in pipes}
    poll = select.poll()
    for fd in names:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    poll.register(ended, select.POLLIN)
    poll.register(sock, 0)  # only hang-up: the host is gone
    broken, marks = None, []

    def take(fd):
        """One read; False at the end of the stream or when nothing waits."""
        name = names[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            poll.unregister(fd)
            names.pop(fd)
            os.close(fd)
            return False
        room = caps[name] - len(kept[name])
        kept[name] += data[:room]
        if name == "report":
            now = time.monotonic()
            while len(marks) < min(kept["report"].count(b"\n"), len(calls)):
                marks.append(now)
        if len(data) > room and name != "err":
            return None
        return True

    running = True
    while running and broken is None:
        left = (marks[-1] if marks else started) + limits["wall_s"] - time.monotonic()
        if left <= 0:
            left += min(waited_for_processor(pid), STARVED * limits["wall_s"])
        if left <= 0:
            broken = "wall"
            break
        for fd, event in poll.poll(left * 1000 + 1):
            if fd == sock.fileno():
                os._exit(1)
            if fd == ended:
                running = False
            elif fd in names and event and take(fd) is None:
                broken = "output"
    seconds = time.monotonic() - started
    if broken:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    end_all(request["isolated"])
    for fd in list(names):
        more = True
        while more:
            more = take(fd)
        if more is None:
            broken = broken or "output"
    for fd in list(names):
        os.close(fd)
    os.close(ended)
    return {
        "broken": broken,
        "status": status,
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
        "out": kept["out"].decode("latin-1"),
        "err": kept["err"].decode("latin-1"),
        "report": kept["report"].decode("latin-1"),
        "setup": kept["setup"].decode("latin-1"),
        "marks": [mark - started for mark in marks],
    }


def serve_one(settings, sock):
    """Takes one request, runs it, answers."""
    request = receive(sock)
    if request is None:
        os._exit(0)
    limits = request["limits"]
    request["isolated"] = settings.isolated
    request["mounted"] = 0
    base = "/" if settings.isolated else os.environ["RINGFLOW_SANDBOX_DIRECTORY"]
    request["cwd"] = os.path.join(base, "tmp")
    if request["argv"] is not None:
        box = os.path.join(base, "box")
        if settings.isolated:
            mount_tmp(b"/box", request["compile_limits"]["tmp_bytes"])
        write_files(box, {**request["files"], request["source_name"]: request["source"]})
        if request["compile"]:
            compiling = dict(request, cwd=box, address_space=False)
            facts = run_child(settings, sock, compiling, request["compile_limits"], request["compile"], b"")
            if facts["broken"] or facts["status"]:
                send(sock, {"compile": facts, "tests": []})
                return
        if settings.isolated:
            check(libc.mount(None, b"/box", None, REMOUNT | RDONLY | NOSUID_NODEV, None), "make /box read-only")
    answers = []
    for step in request["steps"]:
        fresh_directory(request)
        stdin = step["stdin"].encode("latin-1")
        facts = run_child(settings, sock, request, limits, request["argv"], stdin, step["calls"])
        answers.append(facts)
        if request["stop"] and (facts["broken"] or facts["status"]):
            break
    send(sock, {"compile": None, "tests": answers})


def supervisor(settings, sock):
    if settings.isolated:
        check(libc.unshare(NEWNS), "new mount namespace")
        # Processes alone: where the host user is root, the owner of /proc/sys is the program's user too.
        check(libc.mount(b"proc", b"/proc", b"proc", NOSUID_NODEV_NOEXEC, b"subset=pid"), "mount /proc (Linux 5.8)")
        mount_tmp(b"/tmp", 16 << 20)
    else:
        libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    serve_one(settings, sock)


# ---- zygote ----------------------------------------------------------------------------------------------------------


def facts(settings):
    """What the host needs to name the tier: namespaces, user, and whether the filter loads in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            confine(settings, {"cpu_s": 1, "file_bytes": 0, "open_files": 16, "processes": 1, "memory_bytes": 0}, False)
            with open("/proc/self/status") as status:
                filtered = any(line.split() == ["Seccomp:", "2"] for line in status)
            os._exit(0 if filtered else 1)
        except BaseException as error:
            os.write(2, f"sandbox: {error!r}\n".encode())
            os._exit(2)
    filtered = os.waitpid(pid, 0)[1] == 0
    names = ("user", "pid", "net", "ipc", "uts", "mnt")
    return {
        "ready": True,
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in names},
        "seccomp": filtered,
        "uid": os.getuid(),
    }


def main():
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = Settings(receive(sock))
    if settings.isolated:  # where the host user is root, the program's user owns the nodes and could change their mode
        for device in os.scandir("/dev"):
            if not device.is_symlink():
                flags = REMOUNT | BIND | RDONLY | NOSUID_NOEXEC
                check(libc.mount(None, device.path.encode(), None, flags, None), f"make {device.path} read-only")
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    ast.literal_eval("[1, 'a']")
    gc.collect()
    gc.freeze()
    gc.disable()
    send(sock, facts(settings))
    while True:
        if settings.isolated:
            check(libc.unshare(NEWPID), "new pid namespace")
        pid = os.fork()
        if pid == 0:
            try:
                supervisor(settings, sock)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(3)
        status = os.waitpid(pid, 0)[1]
        if settings.isolated:
            check(libc.setns(own, NEWPID), "return to the own pid namespace")
        sock.setblocking(True)
        if status:
            os._exit(4)  # the host sees the end of the stream and starts a new worker
        if select.select([sock], [], [], 0)[0] and not sock.recv(1, socket.MSG_PEEK):
            os._exit(0)


if __name__ == "__main__":
    main()
