"""Scripts on several processes, and what their runs have in common."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import environment
from safetensors.torch import load_file


def start(processes: int, script: str, folder: Path, *arguments: str, restarts: int = 0) -> subprocess.CompletedProcess:
    """Run a script to its end on some processes, started again after an error if that is asked for.

    Args:
        arguments: the script's.
        restarts: how often all processes are started anew.
    """
    file = folder / "run.py"
    file.write_text(script, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--max_restarts", str(restarts)]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(file), *arguments],
        # Without the last, torch keeps the addresses of dead processes, for which those that it starts anew may wait.
        env=environment(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_on(processes: int, script: str, folder: Path, *arguments: str) -> None:
    """Run a script that must end well."""
    done = start(processes, script, folder, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_equal_to_rounding(one: Path, other: Path) -> None:
    """What two runs saved, and their logs."""
    for name in ("model.safetensors", "training_heads.safetensors"):
        tensors, others = load_file(one / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        for key in tensors:
            torch.testing.assert_close(tensors[key], others[key], atol=2e-5, rtol=1e-3, msg=key)
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (one, other)]
    for a, b in zip(*logs, strict=True):
        for key in a.keys() & b.keys():
            if key.startswith(("loss", "reward", "share", "tutor", "grad_norm")):
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
