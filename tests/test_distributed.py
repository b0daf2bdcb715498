"""Two processes on the CPU: the student is spread, the teacher stays whole in each, the result is one process's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import datasets, torch
import tiny
from tutorkd import TutorKDConfig, TutorKDTrainer

torch.set_num_threads(1)
out, rows_a_device = sys.argv[1], int(sys.argv[2])
rows = tiny.rows(24, 12) + tiny.rows(24, 9, seed=1)  # rows of two lengths: devices hold different numbers of tokens
data = datasets.Dataset.from_list(rows)
torch.manual_seed(0)
args = TutorKDConfig(
    output_dir=out, max_steps=3, per_device_train_batch_size=rows_a_device, sampling="greedy", logging_steps=1,
    eval_strategy="steps", eval_steps=3, save_strategy="no", disable_tqdm=True, max_grad_norm=1.0,
)
trainer = TutorKDTrainer("half", tiny.masked_lm(), args, data, tiny.tokenizer(), eval_dataset=data)
trainer.train()
assert type(trainer.teacher).__name__ == "Teacher"
assert not any(p.requires_grad for p in trainer.teacher.parameters())
trainer.save_model()
trainer.save_state()
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


def _run(command: list[str], script: Path, out: Path, rows: int) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    done = subprocess.run(
        [*command, str(script), str(out), str(rows)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one_with_twice_the_rows(tmp_path):

    script = tmp_path / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    _run([sys.executable], script, tmp_path / "one", 8)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    _run([*launcher, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"], script, tmp_path / "two", 4)
    for name in ("model.safetensors", "training_heads.safetensors"):
        one, two = (load_file(tmp_path / folder / name) for folder in ("one", "two"))
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(one[key], two[key], atol=2e-5, rtol=1e-3, msg=key)
    logs = [json.loads((tmp_path / f / "trainer_state.json").read_text())["log_history"] for f in ("one", "two")]
    for a, b in zip(*logs, strict=True):
        for key in a.keys() & b.keys():
            if key.startswith(("loss", "reward", "share", "tutor", "grad_norm")):
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
