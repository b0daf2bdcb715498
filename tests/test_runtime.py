"""What is asked of the machine."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from tutorkd.runtime import keep_freed_memory

if {keep}:
    assert keep_freed_memory()
for _ in range(20):
    torch.ones(2**24)  # 64 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of the GNU C library")
def test_freed_memory_is_used_again_and_not_fetched_from_the_kernel_page_by_page():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True).stdout)
        for keep in (True, False)
    )
    pages = 10 * 2**26 // 2**12
    assert kept < pages // 100
    assert given_back > pages // 2
