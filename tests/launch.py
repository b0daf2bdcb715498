"""Scripts on several processes, and what their runs have in common."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import environment
from safetensors.torch import load_file

# Forks processes with what torchrun gives to each, when all is imported that takes seconds; one that fails ends all.
FORKED = """
import gc, os, runpy, signal, socket, sys
import tiny, tutorkd.pretraining.distillation, tutorkd.pretraining.memory

processes, script = int(sys.argv[1]), sys.argv[2]
with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
gc.freeze()
children = []
for rank in range(processes):
    child = os.fork()
    if not child:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {**{name: str(number) for name, number in ranks.items()}, "MASTER_ADDR": "localhost",
                       "MASTER_PORT": str(port)}
        sys.argv = sys.argv[2:]
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    children.append(child)
while children:
    child, status = os.wait()
    children.remove(child)
    if status:
        for other in children:
            os.kill(other, signal.SIGKILL)
        sys.exit(1)
"""


def start(processes: int, script: str, folder: Path, *arguments: str, restarts: int = 0) -> subprocess.CompletedProcess:
    """Run a script to its end by torchrun on some processes, started again after an error if that is asked for.

    Args:
        arguments: the script's.
        restarts: how often all processes are started anew.
    """
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--max_restarts", str(restarts)]
    return _run([*launcher, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"], script, folder, *arguments)


def run_on(processes: int, script: str, folder: Path, *arguments: str) -> None:
    """Run a script that must end well."""
    done = fork(processes, script, folder, *arguments) if processes > 1 else _run([], script, folder, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]


def fork(processes: int, script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script to its end on some processes without torchrun, whose start takes as long as most scripts."""
    return _run(["-c", FORKED, str(processes)], script, folder, *arguments)


def _run(launcher: list[str], script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    file = folder / "run.py"
    file.write_text(script, encoding="utf-8")
    return subprocess.run(
        [sys.executable, *launcher, str(file), *arguments],
        # Without the last, torch keeps the addresses of dead processes, for which those that it starts anew may wait.
        env=environment(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )


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
