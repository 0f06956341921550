"""Memory kept between steps: tensors that come and go touch no new pages."""

import platform
import resource

import pytest
import torch

from touchneedle.benchmark.allocator import keep_freed_memory

MEGABYTES = 2**20 // 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again() -> None:
    keep_freed_memory()
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2 * MEGABYTES) for _ in range(20)]
        del tensors
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # Forty megabytes are 10,000 pages of 4 kB.
    assert faults[-1] < 1_000
