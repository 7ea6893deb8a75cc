"""How the process that runs a command treats the memory that it frees."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for its next step, where the C library is glibc.

    By default glibc gives large arrays back to the system in every step and asks for them again, which the system then
    zeroes page by page: up to a quarter of the time in which a small network trains (docs/log). For the owner of a
    process to decide: the command line and its workers do it, the library does not. Arrays of more than 128 MiB still
    go back, since the room that one leaves seldom fits the next.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 27)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
