"""Becomes a program that may have no memory that is writable and executable, as
`MemoryDenyWriteExecute=` of systemd.exec(5) filters system calls. Run by its path:

    python no_write_execute.py PROGRAM ARGUMENTS
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys

# mmap, mprotect, pkey_mprotect
CALLS = {"x86_64": (9, 10, 329), "aarch64": (222, 226, 288)}[platform.machine()]
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ERRNO, EPERM
LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06  # BPF_LD+W+ABS, ALU+AND+K, JMP+JEQ+K, RET+K
NUMBER, THIRD_ARGUMENT = 0, 16 + 2 * 8  # offsets in struct seccomp_data


class Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def refuse(call: int, protection: int) -> list[tuple[int, int, int, int]]:
    """Of this call, what asks for all of this protection."""
    return [
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 4, call),
        (LOAD, 0, 0, THIRD_ARGUMENT),
        (AND, 0, 0, protection),
        (EQUAL, 0, 1, protection),
        (RETURN, 0, 0, REFUSE),
    ]


def main() -> None:
    """Filter, see that it holds, go on."""
    map_, protect, pkey_protect = CALLS
    program = refuse(map_, mmap.PROT_WRITE | mmap.PROT_EXEC)
    program += refuse(protect, mmap.PROT_EXEC) + refuse(pkey_protect, mmap.PROT_EXEC)
    program.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filter_ = ctypes.byref(Filter(len(program), code))
    assert not libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0), ctypes.get_errno()
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except PermissionError:
        os.execv(sys.argv[1], sys.argv[1:])
    sys.exit("the filter does not hold")


main()
