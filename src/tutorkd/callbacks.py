"""What a run shows while it goes on, and how it stops when asked to."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import distributed
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tutorkd.step import LOSS, Figure
from tutorkd.words import as_figure

LEARNING_RATE = Figure("learning_rate", "lr")
TOKENS_PER_SECOND = Figure("tokens_per_second", "tok/s")
SKIPPED_STEPS = Figure("skipped_steps", "skipped")
SECONDS_LEFT = "seconds_left"
# What Trainer logs of the time that it took.
TIMES = {
    *("train_runtime", "train_tokens_per_second"),
    *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time"),
}
# What is logged too, and a table has no room for.
NOT_SHOWN = {"epoch", "grad_norm", "total_flos", "train_loss", SECONDS_LEFT, *TIMES}


class ProgressTable(TrainerCallback):
    """A progress bar with throughput and time left, above it a table that lines up, a row a log.

    Args:
        stage: what the bar calls this.
        figures: what the table's columns are, in their order, between the loss and what every run logs.
    """

    def __init__(self, stage: str, figures: Sequence[Figure]):
        self.stage = stage
        ordered = (LOSS, *figures, LEARNING_RATE, TOKENS_PER_SECOND, SKIPPED_STEPS)
        self.labels = {figure.name: figure.label for figure in ordered}
        self.scales = {figure.name: figure.scale for figure in figures if figure.scale is not None}
        self.bar: tqdm | None = None
        self.columns: list[str] = []

    def on_train_begin(self, args, state: TrainerState, control, **kwargs):
        if state.is_world_process_zero:
            self.columns = []
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.stage, unit="step", dynamic_ncols=True
            )

    def note(self, text: str) -> None:
        """Say behind the bar what is going on; the next figures take its place."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)

    def on_step_end(self, args, state: TrainerState, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state: TrainerState, control, logs: dict[str, Any] | None = None, **kwargs):
        if self.bar is None or logs is None or "train_runtime" in logs:
            return
        shown = {k: v for k, v in logs.items() if k not in NOT_SHOWN}
        if "loss" not in logs:
            figures = ", ".join(f"{self.labels.get(k, k)} {as_figure(v)}" for k, v in shown.items())
            if figures:
                if not self.columns:  # a look may come before the first line
                    self.columns = ["step"]
                    self.bar.write(f"{'step':>7}  held-out text")
                self.bar.write(f"{state.global_step:>7}  {figures}")
            for name in [name for name in shown if name in self.scales]:  # told once
                self.bar.write(f"{'':>7}  {self.labels[name]}: {self.scales.pop(name)}")
            return
        if TOKENS_PER_SECOND.name in logs:
            self.bar.set_postfix_str(f"{logs[TOKENS_PER_SECOND.name]:,.0f} tokens/s")
        order = list(self.labels)
        columns = sorted(shown, key=lambda name: order.index(name) if name in order else -1)
        if columns != self.columns:
            self.columns = columns
            self.bar.write(f"{'step':>7}" + "".join(f"{self.labels.get(c, c):>9}" for c in self.columns))
        self.bar.write(f"{state.global_step:>7}" + "".join(f"{as_figure(shown[c]):>9}" for c in self.columns))

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """End the bar's line; nothing if there is no bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class StopOnSignal(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save a checkpoint, stop. A second one stops at once.

    Of several processes one may get the signal before the others, or alone. They agree after each step, so that all of
    them stop after the same one: a checkpoint is saved by all together.

    ``received`` is the signal's number afterwards, 0 if there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self.previous: dict[int, Any] = {}
        self.processes: Any = None  # that agree, over the network: asking a GPU would make it wait

    def on_train_begin(self, args, state, control, **kwargs):
        self.received = 0
        if args.world_size > 1:
            self.processes = distributed.new_group(backend="gloo")
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread, which alone may handle signals
                return

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        tqdm.write("Stopping after this step; a checkpoint will be saved.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        received = self.received  # a signal that comes from here on counts after the next step
        if self.processes is not None:
            highest = torch.tensor(received)
            distributed.all_reduce(highest, distributed.ReduceOp.MAX, self.processes)
            received = int(highest)
        if received:
            self.received = received
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()


class AtTheBeginning(TrainerCallback):
    """Does something when a run begins, and not where it goes on."""

    def __init__(self, do: Callable[[], None]):
        self.do = do

    def on_train_begin(self, args, state: TrainerState, control, **kwargs):
        if not state.global_step:
            self.do()


class StepsAsAsked(TrainerCallback):
    """A run that goes on logs, saves and evaluates as often as it is asked to now, not as its checkpoint was."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control, **kwargs):
        state.compute_steps(args, state.max_steps)


class Throughput(TrainerCallback):
    """Tokens a second and time left, since the last reading."""

    def __init__(self) -> None:
        self._restart(0)

    def on_train_begin(self, args, state: TrainerState, control, **kwargs):
        self._restart(state.global_step)

    def _restart(self, step: int) -> None:
        self.since, self.step = time.perf_counter(), step

    def read(self, tokens: float, step: int, max_steps: int) -> dict[str, float]:
        now = time.perf_counter()
        elapsed, steps = now - self.since, step - self.step
        self._restart(step)
        if not steps:
            return {}
        return {TOKENS_PER_SECOND.name: tokens / elapsed, SECONDS_LEFT: elapsed / steps * (max_steps - step)}
