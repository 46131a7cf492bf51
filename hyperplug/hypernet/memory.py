"""How a process treats the memory that it has freed."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: handing back and refaulting it costs up to half
    of a step's time. Does nothing elsewhere."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except OSError:
        pass
