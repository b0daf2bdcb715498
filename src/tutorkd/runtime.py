"""What this machine is and can do."""

import ctypes
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from typing import NamedTuple

import numpy as np
import psutil
import torch

_FEWEST_TIMES, _MOST_TIMES, _LEAST_SECONDS = 3, 100, 1.0


def prefers_bfloat16() -> bool:
    """Whether the device that training will use multiplies bfloat16 matrices natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpu_says("flags", "features").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


def usable_device() -> torch.device:
    """Where models run: the accelerator, or the processor where there is none that can be used, as with a CUDA build of
    torch on a machine without a driver, whose current accelerator is named all the same.
    """
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, each as the value of CUDA_VISIBLE_DEVICES that shows it alone."""
    if not torch.cuda.is_available():
        return []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",") if shown else [str(index) for index in range(torch.cuda.device_count())]


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for training on the processor; whether that could be done.

    A step makes and drops hundreds of megabytes of tensors. The GNU C library gives blocks of that size back to the
    kernel at once, which then fetches and zeroes each page again when the next step asks for it: a fifth of the step
    and more. With these two settings of its allocator freed blocks are used again. Elsewhere nothing is changed.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # the numbers of malloc.h
    return _set_allocator({m_mmap_max: 0, m_trim_threshold: -1})


def return_freed_memory() -> bool:
    """Let this process give back the memory of tensors that it frees, at once; whether that could be done.

    The GNU C library begins so, but learns from the sizes that are freed to keep blocks of up to 32 MB, for which the
    layers of a sharded teacher, gathered and dropped in turn, leave holes behind that add up to more than their slices.
    """
    m_mmap_threshold = -3
    return _set_allocator({m_mmap_threshold: 128 * 1024})


class Quartiles(NamedTuple):
    """What was measured several times: half of it lies between the quartiles, which a busy machine moves apart."""

    median: float
    first_quartile: float
    third_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        return cls(*map(float, np.quantile(values, [0.5, 0.25, 0.75])))

    def rate(self, amount: float) -> "Quartiles":
        """Of times that ``amount`` took: how much is done in a unit of time."""
        return Quartiles(amount / self.median, amount / self.third_quartile, amount / self.first_quartile)


def timed(do: Callable[[], object], device: torch.device) -> Quartiles:
    """Seconds that something takes on a device: done once to warm up, then thrice or more, for a second or more."""
    seconds: list[float] = []
    for number in range(_MOST_TIMES):
        start = _now(device)
        do()
        if number:
            seconds.append(_now(device) - start)
        if number >= _FEWEST_TIMES and sum(seconds) >= _LEAST_SECONDS:
            break
    return Quartiles.of(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _set_allocator(settings: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system or C library
        return False
    return all(mallopt(number, value) for number, value in settings.items())


def _cpu_says(*names: str) -> str:
    """What Linux says of the processor behind the first of these names; nothing where it doesn't, or isn't there."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.lower().startswith(names)), "")
    return ""


def describe() -> dict[str, str]:
    """The machine and the versions of what results depend on, as printed by ``tutorkd env``."""
    packages = (
        *("tutorkd", "torch", "transformers", "accelerate"),
        *("datasets", "tokenizers", "safetensors", "onnxruntime", "torchao"),
    )
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    name = _cpu_says("model name") or platform.processor() or platform.machine()
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{name}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "bfloat16": "native" if prefers_bfloat16() else "not native",
    }
    return {**versions, **machine}
