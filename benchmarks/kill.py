"""Kill a training run at random points, and see that the same command always goes on to the same weights.

One process imports everything and forks the runs, so that a start takes no import. Each run distils a tiny model that
is made here, and saves a checkpoint every other step. It gets SIGKILL at a random moment, half of the time at one that
falls into saving, and is started again until it ends; then its weights are compared bit for bit with those of a run
that nothing disturbed. Several processes are forked with the environment that torchrun gives to each; one of them at
random is killed first and the others a moment later.
"""

import argparse
import contextlib
import gc
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}

import tiny
import torch
from commands import save, save_corpus, weights
from tqdm.auto import tqdm

import tutorkd.pretraining.distillation  # noqa: F401  (which a run imports, and forked ones find imported)
from tutorkd.checkpoints import SCRATCH
from tutorkd.cli import distill
from tutorkd.cli.main import main

ROWS, STEPS = 4, 25  # rows a step over all processes, of 75; 18 steps are an epoch, so that runs end in the second
distill.tell_page = lambda *_: None  # as long as the training, and after all that counts
LIMIT = 120  # seconds after which a run hangs
tqdm.monitor_interval = 0  # its thread could hold a lock while runs are forked
SAVING_SPREAD = 0.15  # seconds; about what a save takes


def command(root: Path, out: Path, processes: int) -> list[str]:
    """The command that is killed and started again."""
    return [
        *("distill", "--method", "tutor-kd", "--teacher", str(root / "teacher"), "--corpus", str(root / "corpus.txt")),
        *("--cache_dir", str(root / "cache"), "--output_dir", str(out), "--max_length", "32", "--use_cpu"),
        *("--per_device_train_batch_size", str(ROWS // processes), "--max_steps", str(STEPS), "--save_steps", "2"),
        *("--logging_steps", "1", "--eval_strategy", "no", "--report_to", "none"),
    ]


class Run:
    """The processes of one start of a command; all that they print goes into ``log``."""

    def __init__(self, argv: list[str], processes: int, log: Path):
        self.log, self.started, self.codes = log, time.perf_counter(), {}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.running = [self._fork(argv, rank, processes, port) for rank in range(processes)]

    def _fork(self, argv: list[str], rank: int, processes: int, port: int) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(output, stream)
            if processes > 1:
                os.environ |= {
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)},
                    **{"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
                }
            sys.argv = ["tutorkd", *argv]
            torch.set_num_threads(1)
            code = main(argv)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def ended(self) -> bool:
        """Whether all processes have ended; ``codes`` has theirs."""
        for process in self.running:
            if process not in self.codes:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self.codes[process] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.running)

    def kill(self, chance: random.Random) -> None:
        """SIGKILL, to one of several first."""
        for process in chance.sample(self.running, len(self.running)):
            if process not in self.codes:
                os.kill(process, signal.SIGKILL)
                time.sleep(chance.choice((0, 0, chance.random() / 20)))
        while not self.ended():
            time.sleep(0.001)


def undisturbed(root: Path, processes: int) -> float:
    """Make a run that nothing disturbs; returns its seconds."""
    run = Run(command(root, root / "undisturbed", processes), processes, root / "log.txt")
    while not run.ended():
        time.sleep(0.001)
    if any(run.codes.values()):
        raise SystemExit(run.log.read_text(errors="replace"))
    return time.perf_counter() - run.started


def killed(run: Run, out: Path, seconds: float, saving: bool, chance: random.Random) -> bool:
    """Let a run come to a random moment, and kill it; false if it ended before.

    Args:
        seconds: that an undisturbed run takes; the moment is within them.
        saving: wait until then for the next save, and kill it in that.
    """
    moment = run.started + chance.random() * seconds
    while not run.ended():
        now = time.perf_counter()
        if now > run.started + LIMIT or (now > moment and (not saving or (out / SCRATCH).exists())):
            if saving:
                time.sleep(chance.random() * SAVING_SPREAD)
            run.kill(chance)
            return any(code == -signal.SIGKILL for code in run.codes.values())
        time.sleep(0.0005)
    return False


def kill_runs(root: Path, kills: int, processes: int, seed: int) -> list[str]:
    """Kill so many times; returns what failed."""
    chance = random.Random(seed)
    gc.freeze()  # the runs needn't look for garbage in what is imported
    save(tiny.masked_lm("bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1), root / "teacher")
    save_corpus(root / "corpus.txt")
    seconds = undisturbed(root, processes)
    expected = weights(root / "undisturbed")
    failures: list[str] = []
    done = runs = in_saving = 0
    while done < kills:
        runs += 1
        out, log, begun = root / f"run-{runs}", root / f"log-{runs}.txt", done
        run = Run(command(root, out, processes), processes, log)
        while done < kills and killed(run, out, seconds, chance.random() < 0.5, chance):
            done, in_saving = done + 1, in_saving + (out / SCRATCH).exists()
            run = Run(command(root, out, processes), processes, log)
        while not run.ended() and time.perf_counter() < run.started + LIMIT:
            time.sleep(0.001)
        what = f"run {runs}, killed {done - begun} times"
        if not run.ended():
            run.kill(chance)
            failures.append(f"{what}: it hung\n{log.read_text(errors='replace')[-2000:]}")
        elif any(run.codes.values()):
            failures.append(f"{what}: exit codes {list(run.codes.values())}\n{log.read_text(errors='replace')[-2000:]}")
        else:
            found = weights(out)
            different = [name for name in expected.keys() | found.keys() if not _equal(expected, found, name)]
            if different:
                failures.append(f"{what}: {len(different)} tensors differ, such as {min(different)}")
    print(
        f"killed {done} times, {in_saving} of them while a checkpoint was being written: {runs} runs of {processes} "
        f"process{'es' * (processes > 1)}, {runs - len(failures)} ended with the weights of the undisturbed run"
    )
    return failures


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], name: str) -> bool:
    return name in first and name in second and torch.equal(first[name], second[name])


def kill() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="how many times to kill")
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2, 4), help="processes of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):
        failures = kill_runs(Path(root), args.kills, args.processes, args.seed)
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(kill())
