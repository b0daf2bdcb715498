"""What a run shows while it goes on, and how it stops when asked to."""

import signal
import time
from types import FrameType
from typing import Any

import torch
from torch import distributed
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# The paper's symbols, which also keep the columns narrow.
COLUMN_NAMES = {
    "loss": "loss",
    "mlm_accuracy": "accuracy",
    "loss_modified_logit": "L_mod",
    "loss_hidden_state": "L_hid",
    "loss_attention_score": "L_att",
    "loss_policy": "L_pol",
    "loss_plausibility": "L_kl",
    "loss_soft_cross_entropy": "L_ce",
    "loss_mlm": "L_mlm",
    "loss_cosine": "L_cos",
    "loss_attention_distribution": "L_at",
    "loss_query_relation": "L_qr",
    "loss_key_relation": "L_kr",
    "loss_value_relation": "L_vr",
    "reward_teacher": "R_T",
    "reward_student": "R_S",
    "share_original": "x'=x",
    "share_ratio_1": "ratio=1",
    "tutor_entropy": "H(tutor)",
    "grad_norm_student": "|g_S|",
    "grad_norm_tutor": "|g_G|",
    "learning_rate": "lr",
    "tokens_per_second": "tok/s",
    "skipped_steps": "skipped",
    "eval_probe_auc": "probe AUC",
    "eval_probe_correlation": "probe corr.",
    "eval_loss": "held-out loss",
    "eval_accuracy": "accuracy",
    "eval_perplexity": "perplexity",
}
NOT_SHOWN = {"epoch", "grad_norm", "total_flos", "train_loss", "seconds_left", "eval_model_preparation_time"}
ORDER = list(COLUMN_NAMES)


class ProgressTable(TrainerCallback):
    """A progress bar with throughput and time left, above it a table that lines up, a row a log."""

    def __init__(self, stage: str):
        self.stage = stage
        self.bar: tqdm | None = None
        self.columns: list[str] = []

    def on_train_begin(self, args, state: TrainerState, control, **kwargs):
        if state.is_world_process_zero:
            self.columns = []
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.stage, unit="step", dynamic_ncols=True
            )

    def on_step_end(self, args, state: TrainerState, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state: TrainerState, control, logs: dict[str, Any] | None = None, **kwargs):
        if self.bar is None or logs is None or "train_runtime" in logs:
            return
        shown = {k: v for k, v in logs.items() if k not in NOT_SHOWN and not _is_timing(k)}
        if "loss" not in logs:
            figures = ", ".join(f"{COLUMN_NAMES.get(k, k)} {_cell(v)}" for k, v in shown.items())
            if figures:
                self.bar.write(f"{'':>7}  {figures}")
            return
        if "tokens_per_second" in logs:
            self.bar.set_postfix_str(f"{logs['tokens_per_second']:,.0f} tokens/s")
        columns = sorted(shown, key=lambda name: ORDER.index(name) if name in ORDER else -1)
        if columns != self.columns:
            self.columns = columns
            self.bar.write(f"{'step':>7}" + "".join(f"{COLUMN_NAMES.get(c, c):>9}" for c in self.columns))
        self.bar.write(f"{state.global_step:>7}" + "".join(f"{_cell(shown[c]):>9}" for c in self.columns))

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """End the bar's line; nothing if there is no bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _is_timing(key: str) -> bool:
    return key.startswith("eval_") and key.endswith(("runtime", "per_second"))


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.1e}"


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
        return {"tokens_per_second": tokens / elapsed, "seconds_left": elapsed / steps * (max_steps - step)}
