"""Memory of tensors between two steps: kept by the process, so that the system need not clear it anew.

The allocator of glibc gives memory back once a few megabytes are free at its end, as they are after every step of a training. The next
step then pays for each page that it touches, which took a quarter of the time of eight stacked members.
"""

from __future__ import annotations

import ctypes
import functools
import platform

# Parameters of mallopt(3) and their values in bytes; as large as the first one grows by itself, and what a step may leave behind.
_LARGEST_KEPT = (-3, 2**25)
_KEPT_IN_ALL = (-1, 2**28)


@functools.cache
def keep_freed_memory() -> None:
    """Keep up to 256 MB of freed memory in this process from now on; nothing is done for other allocators."""
    if platform.libc_ver()[0] != "glibc":
        return
    for parameter, value in (_LARGEST_KEPT, _KEPT_IN_ALL):
        ctypes.CDLL(None).mallopt(parameter, value)
