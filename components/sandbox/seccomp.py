"""A seccomp filter as BPF bytes, assembled here: no library is needed, and the table is readable.

Three answers. KILL: calls no honest program makes (mounting, tracing, kernel modules, new namespaces); the program dies
with SIGSYS and the verdict is security-violation. EPERM and ENOSYS: calls that runtimes probe at start and can do
without (io_uring in node, clone3 in glibc, which falls back to clone, whose flags a filter can read). Sockets other
than local and internet ones are refused, because vsock and netlink families are not bounded by the network namespace;
memfd_create, because such memory is counted by no resource limit; typing into a terminal (TIOCSTI, TIOCLINUX); limits,
scheduling and priorities of process 1, which may be the same user and outlives the program; and every call newer than
this table. The idea is the default profile of container engines, turned into a deny list. See
seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import platform
import struct

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_NEWEST = 462  # mseal, Linux 6.10; numbers are the same on all machines from 424 on
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6

_X86_64 = {
    "kill": {
        "ptrace": 101, "syslog": 103, "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166,
        "swapon": 167, "swapoff": 168, "reboot": 169, "init_module": 175, "delete_module": 176, "quotactl": 179,
        "kexec_load": 246, "unshare": 272, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "iopl": 172, "ioperm": 173,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "pidfd_getfd": 438, "mount_setattr": 442,
    },
    "eperm": {
        "shmget": 29, "semget": 64, "msgget": 68, "personality": 135, "adjtimex": 159, "settimeofday": 164,
        "sethostname": 170, "setdomainname": 171, "clock_settime": 227, "mq_open": 240, "add_key": 248,
        "request_key": 249, "keyctl": 250, "name_to_handle_at": 303, "clock_adjtime": 305, "kcmp": 312,
        "perf_event_open": 298, "fanotify_init": 300, "modify_ldt": 154, "vhangup": 153, "mbind": 237,
        "set_mempolicy": 238, "migrate_pages": 256, "move_pages": 279, "lookup_dcookie": 212, "quotactl_fd": 443,
    },
    "enosys": {"userfaultfd": 323, "clone3": 435, "io_uring_setup": 425, "io_uring_enter": 426,
               "io_uring_register": 427, "memfd_secret": 447, "memfd_create": 319, "uselib": 134, "sysfs": 139,
               "process_madvise": 440},
    "to_process": {"prlimit64": 302, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203,
                   "sched_setattr": 314},
    "priority": {"setpriority": (141, 2), "ioprio_set": (251, 3)},
    "clone": 56, "socket": 41, "ioctl": 16, "arch": 0xC000003E,
}  # fmt: skip
_AARCH64 = {
    "kill": {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "quotactl": 60, "acct": 89, "unshare": 97,
        "kexec_load": 104, "init_module": 105, "delete_module": 106, "syslog": 116, "ptrace": 117, "reboot": 142,
        "swapon": 224, "swapoff": 225, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "finit_module": 273, "bpf": 280, "kexec_file_load": 294, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438,
        "mount_setattr": 442,
    },
    "eperm": {
        "personality": 92, "clock_settime": 112, "sethostname": 161, "setdomainname": 162, "settimeofday": 170,
        "adjtimex": 171, "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "add_key": 217,
        "request_key": 218, "keyctl": 219, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
        "clock_adjtime": 266, "kcmp": 272, "vhangup": 58, "mbind": 235, "set_mempolicy": 237, "migrate_pages": 238,
        "move_pages": 239, "lookup_dcookie": 18, "quotactl_fd": 443,
    },
    "enosys": {"userfaultfd": 282, "clone3": 435, "io_uring_setup": 425, "io_uring_enter": 426,
               "io_uring_register": 427, "memfd_secret": 447, "memfd_create": 279, "process_madvise": 440},
    "to_process": {"prlimit64": 261, "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122,
                   "sched_setattr": 274},
    "priority": {"setpriority": (140, 2), "ioprio_set": (30, 3)},
    "clone": 220, "socket": 198, "ioctl": 29, "arch": 0xC00000B7,
}  # fmt: skip
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def filter_bytes(machine: str | None = None) -> bytes | None:
    """The filter as an array of `struct sock_filter` (8 bytes each), or None for a machine without a table."""
    table = _MACHINES.get(machine or platform.machine())
    if table is None:
        return None
    program: list[tuple[int, int, int, int]] = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, table["arch"]),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NUMBER),
    ]
    if table is _X86_64:  # the x32 ABI renumbers calls under the same architecture word
        program += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _KILL)]
    program += [(_JGE, 0, 1, _NEWEST + 1), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    for group, action in (("kill", _KILL), ("eperm", _ERRNO | _EPERM), ("enosys", _ERRNO | _ENOSYS)):
        for number in sorted(table[group].values()):
            program += [(_JEQ, 0, 1, number), (_RET, 0, 0, action)]
    for number in sorted(table["to_process"].values()):  # the first argument is a process
        program += [
            (_JEQ, 0, 4, number),
            (_LD, 0, 0, _FIRST_ARGUMENT),
            (_JEQ, 0, 1, 1),
            (_RET, 0, 0, _ERRNO | _EPERM),
            (_RET, 0, 0, _ALLOW),
        ]
    for number, of_user in sorted(table["priority"].values()):  # (kind of target, target): every process of a user too
        program += [
            (_JEQ, 0, 6, number),
            (_LD, 0, 0, _FIRST_ARGUMENT),
            (_JEQ, 2, 0, of_user),
            (_LD, 0, 0, _SECOND_ARGUMENT),
            (_JEQ, 0, 1, 1),
            (_RET, 0, 0, _ERRNO | _EPERM),
            (_RET, 0, 0, _ALLOW),
        ]
    program += [
        (_JEQ, 0, 4, table["clone"]),
        (_LD, 0, 0, _FIRST_ARGUMENT),
        (_JSET, 0, 1, _NEW_NAMESPACES),
        (_RET, 0, 0, _KILL),
        (_RET, 0, 0, _ALLOW),
        (_JEQ, 0, 5, table["ioctl"]),
        (_LD, 0, 0, _SECOND_ARGUMENT),
        (_JEQ, 1, 0, _TERMINAL[0]),
        (_JEQ, 0, 1, _TERMINAL[1]),
        (_RET, 0, 0, _ERRNO | _EPERM),
        (_RET, 0, 0, _ALLOW),
    ]
    families = [(_JEQ, len(_FAMILIES) - i, 0, family) for i, family in enumerate(_FAMILIES)]
    program += [
        (_JEQ, 0, len(_FAMILIES) + 2, table["socket"]),
        (_LD, 0, 0, _FIRST_ARGUMENT),
        *families,
        (_RET, 0, 0, _ERRNO | _EAFNOSUPPORT),
        (_RET, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
