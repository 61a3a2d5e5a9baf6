"""What a sandboxed program may ask of the kernel: the allowed calls, by name and number.

An allow list: a call that is not named here, and any call that a future kernel adds, answers "not permitted". What is
missing on purpose: every call that makes a process or starts a program (fork, execve), opens a socket (also to another
program of the same machine), signals, watches or changes another process (kill is let through for oneself only),
changes a file's owner, mode or times, mounts, loads, or raises a limit. What `open` may open is the business of the
mounts and of Landlock, which know paths.
"""

from __future__ import annotations

# name: number on x86_64, number on aarch64 (None: that processor has no such call)
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # reading, writing, waiting
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25),
    "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "ioctl": (16, 29), "pipe": (22, None),
    "pipe2": (293, 59), "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "eventfd2": (290, 19), "sendfile": (40, 71), "copy_file_range": (326, 285),
    # files
    "open": (2, None), "openat": (257, 56), "creat": (85, None), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "symlink": (88, None), "symlinkat": (266, 36), "ftruncate": (77, 46),
    "fallocate": (285, 47), "fadvise64": (221, 223), "umask": (95, 166), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "stat": (4, None), "lstat": (6, None), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "getdents": (78, None), "getdents64": (217, 61), "statfs": (137, 43), "fstatfs": (138, 44),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "msync": (26, 227), "mincore": (27, 232), "mlock": (149, 228), "munlock": (150, 229), "brk": (12, 214),
    "membarrier": (324, 283), "get_mempolicy": (239, 236),
    # threads and time
    "futex": (202, 98), "futex_waitv": (449, 449), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "rseq": (334, 293), "set_tid_address": (218, 96), "arch_prctl": (158, None), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_setaffinity": (203, 122), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "pause": (34, None),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # about oneself
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "uname": (63, 160), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# Let through under a condition that jail.py adds: clone for threads only, kill and tgkill for oneself only, prlimit64
# for reading only; clone3 answers "unknown", so that the C library falls back on clone.
CONDITIONAL = {
    "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261),
}  # fmt: skip

# How seccomp names the two processors, and which of the two numbers above is theirs.
PROCESSORS = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def table(machine: str) -> dict[str, object] | None:
    """The numbers for one kind of processor, as jail.py takes them; None if the list does not cover it."""
    if machine not in PROCESSORS:
        return None
    architecture, column = PROCESSORS[machine]
    return {
        "architecture": architecture,
        "allowed": sorted(numbers[column] for numbers in ALLOWED.values() if numbers[column] is not None),
        **{name: numbers[column] for name, numbers in CONDITIONAL.items()},
    }
