"""What is asked of the machine."""

import subprocess
import sys

import pytest
import torch
from commands import environment

from tutorkd.runtime import usable_device

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


@pytest.mark.parametrize("there", [True, False])
def test_an_accelerator_that_a_build_of_torch_is_for_is_used_where_it_is_there(monkeypatch, there):
    def current_accelerator(check_available=False):
        return torch.device("cuda") if there or not check_available else None

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert usable_device().type == ("cuda" if there else "cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of the GNU C library")
def test_freed_memory_is_used_again_and_not_fetched_from_the_kernel_page_by_page():
    def faults(keep):
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, capture_output=True, text=True, env=environment()).stdout)

    kept, given_back = faults(keep=True), faults(keep=False)
    pages = 10 * 2**26 // 2**12
    assert kept < pages // 100
    assert given_back > pages // 2


RETURNED = """
import psutil, torch
from tutorkd.runtime import return_freed_memory

if {back}:
    assert return_freed_memory()
torch.ones(6 * 2**20)  # 24 MiB, from which the allocator learns
tensors, between = [], []
for _ in range(16):
    tensors.append(torch.ones(2**22))  # 16 MiB
    between.append(torch.ones(2**18))  # 1 MiB, for which no earlier hole is large enough: it lies behind it in the heap
before = psutil.Process().memory_info().rss
tensors.clear()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of the GNU C library")
def test_freed_memory_can_be_given_back_at_once():
    def given_back(back):
        command = [sys.executable, "-c", RETURNED.format(back=back)]
        return int(subprocess.run(command, capture_output=True, text=True, env=environment()).stdout)

    assert given_back(True) > 15 * 2**24
    assert given_back(False) < 4 * 2**24
