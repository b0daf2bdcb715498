"""One training step of Tutor-KD: in the order of the authors' released code, and as the trainer takes it.

    python benchmarks/step.py               both shapes, a few minutes on two cores
    python benchmarks/step.py --profile     where the time of our step goes

First checks on a tiny shape that both compute the same losses and gradients, then times them in turn. Weights
are random and made here; nothing is downloaded.
"""

import argparse
import copy
import functools
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import psutil
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from tqdm.auto import tqdm
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    PreTrainedModel,
    TrainerCallback,
)
from transformers.masking_utils import eager_mask

from tutorkd import TutorKDConfig, TutorKDTrainer, functional
from tutorkd.batch import Batch
from tutorkd.callbacks import ProgressTable
from tutorkd.compilation import plain
from tutorkd.cost import matmul_rate
from tutorkd.data.rows import DrawnRows, EpochSampler
from tutorkd.masking import MaskingCollator
from tutorkd.methods import internal, tutor, tutor_kd
from tutorkd.runtime import describe
from tutorkd.students import build_student
from tutorkd.teacher import Teacher

AUTHORS_FLOAT32, AUTHORS_FLOAT16 = "authors-float32", "authors-float16"
OURS_FLOAT32, OURS_BFLOAT16, OURS_COMPILED = "ours-float32", "ours-bfloat16", "ours-compiled"
NAMES = {
    AUTHORS_FLOAT32: "authors' order, float32",
    AUTHORS_FLOAT16: "authors' order, float16",
    OURS_FLOAT32: "ours, float32",
    OURS_BFLOAT16: "ours, bfloat16",
    OURS_COMPILED: "ours, bfloat16, compiled",
}
DTYPES = {AUTHORS_FLOAT16: torch.float16, OURS_BFLOAT16: torch.bfloat16, OURS_COMPILED: torch.bfloat16}
SEED = 0
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
# The authors trained in float16, on GPUs; compiling pays there alone. The first is what the others are compared with.
VARIANTS = [AUTHORS_FLOAT16, OURS_BFLOAT16, OURS_COMPILED] if ON_GPU else [AUTHORS_FLOAT32, OURS_FLOAT32, OURS_BFLOAT16]
# A GPU's steps are short, and those of a compiled run are as fast as they get from the fourth on.
ROUNDS, STEPS, WARM_UP, BATCHES = (2, 20, 5, 30) if ON_GPU else (7, 1, 1, 8)


@dataclass(frozen=True)
class Shape:
    """A teacher, its student of half the depth, and the rows of a step."""

    teacher: BertConfig
    rows: int
    length: int

    def __str__(self) -> str:
        t = self.teacher
        layers = t.num_hidden_layers
        models = f"teacher {layers} x {t.hidden_size}, student {layers // 2} x {t.hidden_size}"
        return f"{models}, {self.rows} rows x {self.length} tokens"


def _bert(layers: int, hidden: int, heads: int, **others: float) -> BertConfig:
    sizes = {"vocab_size": 30522, "max_position_embeddings": 512, "intermediate_size": 4 * hidden} | others
    return BertConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, pad_token_id=0, **sizes)


_GPU_ROWS = 128  # as the authors trained, on either shape
SHAPES = {
    # The sizes of bert-base-uncased.
    "base": Shape(_bert(12, 768, 12), rows=_GPU_ROWS if ON_GPU else 8, length=128),
    "small": Shape(_bert(6, 384, 12), rows=_GPU_ROWS if ON_GPU else 16, length=128),
}
# Weights wide enough that no loss is near 0.
CHECK_SHAPE = Shape(_bert(4, 48, 4, vocab_size=211, initializer_range=0.3), rows=3, length=16)


# The baseline


def _eager_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention in separate operations; hands back the scores before mask and softmax, (B, H, L, L)."""
    scores = query @ key.mT * scaling
    masked = scores if attention_mask is None else scores + attention_mask
    probability = F.dropout(masked.softmax(-1), dropout, module.training)
    return (probability @ value).transpose(1, 2).contiguous(), scores


AttentionInterface.register("eager_scores", _eager_scores)
AttentionMaskInterface.register("eager_scores", eager_mask)


def _mse(a: Tensor, b: Tensor, where: Tensor | None) -> Tensor:
    return F.mse_loss(a, b) if where is None else F.mse_loss(a[where], b[where])


def authors_step(
    module: tutor_kd.TutorKD,
    teacher: BertForMaskedLM,
    batch: Batch,
    draw: Callable[[Tensor], Tensor] = lambda probability: probability.multinomial(1).squeeze(1),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses in the order of the authors' released code; both models' attention must be "eager_scores".

    Both passes of the teacher give back every score matrix, every hidden state and the logits of every
    position; distributions are probabilities over the vocabulary. What that code gets wrong is right here:
    padding counts nowhere.

    Args:
        module: its four trained parts are used, its forward pass isn't.
        teacher: frozen.
        batch: what ``MaskingCollator`` gives.
        draw: replaced tokens (k,) from the tutor's probabilities (k, V).

    Returns:
        The total and the losses by name.
    """
    text, mask = batch.input_ids, batch.attention_mask
    chosen = torch.zeros_like(text, dtype=torch.bool).flatten()
    chosen[batch.masked_positions] = True
    chosen = chosen.view_as(text)
    original = text[chosen].unsqueeze(1)
    everything = {"attention_mask": mask, "output_hidden_states": True, "output_attentions": True}

    with torch.no_grad():
        taught = teacher(batch.corrupted_ids, **everything)
        hidden = taught.hidden_states[-1][chosen]
        plausible = taught.logits[chosen].softmax(-1)

    policy = module.tutor(hidden).softmax(-1)
    replaced = draw(policy).unsqueeze(1)
    tutored = text.masked_scatter(chosen, replaced)
    ratio = (plausible.gather(1, replaced) / plausible.gather(1, original)).clamp(max=1).squeeze(1)

    with torch.no_grad():
        taught = teacher(tutored, **everything)
        reading = taught.logits[chosen].softmax(-1)
        reward = (reading.gather(1, original) - reading.gather(1, replaced)).squeeze(1)

    learned = module.student(tutored, **everything)
    answers = module.modified_logit_head(learned.hidden_states[-1])
    target = torch.ones_like(answers).masked_scatter(chosen, ratio.to(answers.dtype))
    reward = reward + (ratio - answers[chosen].detach().sigmoid()).abs()

    step = len(taught.attentions) // len(learned.attentions)
    real = None if mask is None else mask.bool()
    pairs = None
    if real is not None:
        pairs = (real[:, None, :, None] & real[:, None, None, :]).expand_as(taught.attentions[0])
    answered = F.binary_cross_entropy_with_logits(answers, target, reduction="none")
    losses = {
        "loss_modified_logit": answered.mean() if real is None else answered[real].mean(),
        "loss_hidden_state": sum(
            _mse(module.projection(s), t, real)
            for s, t in zip(learned.hidden_states, taught.hidden_states[::step], strict=True)
        ),
        "loss_attention_score": sum(
            _mse(s, t, pairs) for s, t in zip(learned.attentions, taught.attentions[step - 1 :: step], strict=True)
        ),
        "loss_policy": -(policy.gather(1, replaced).log().squeeze(1) * reward).mean(),
        "loss_plausibility": F.kl_div(policy.log(), plausible, reduction="batchmean"),
    }
    weights = {name: getattr(module.args, name.removeprefix("loss_") + "_weight") for name in losses}
    return sum(weights[name] * loss for name, loss in losses.items()), losses


# Both, ready to run: the same models, the same batches


def _tokenizer(vocab_size: int) -> BertTokenizer:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += [f"token{i}" for i in range(vocab_size - len(vocabulary))]
    return BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)})


def _text(shape: Shape, tokenizer: BertTokenizer) -> list[dict[str, Any]]:
    """Batches of random rows, the same whenever they are made."""
    torch.manual_seed(SEED)
    text = torch.randint(5, shape.teacher.vocab_size, (BATCHES * shape.rows, shape.length))
    text[:, 0], text[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [{"input_ids": row.numpy()} for row in text]


def _models(shape: Shape) -> tuple[BertForMaskedLM, PreTrainedModel]:
    """Teacher, frozen, and student, the same whenever they are made."""
    torch.manual_seed(SEED)
    teacher = BertForMaskedLM(copy.deepcopy(shape.teacher))  # a model writes to its configuration
    return teacher.requires_grad_(False).eval(), build_student("half", shape.teacher)


class Baseline:
    """``authors_step`` and AdamW; that code doesn't clip. In float16 with autocast and a gradient scaler."""

    def __init__(self, shape: Shape, float16: bool):
        self.autocast = torch.autocast(DEVICE.type, torch.float16, enabled=float16)
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=float16)
        tokenizer = _tokenizer(shape.teacher.vocab_size)
        rows = DrawnRows(_text(shape, tokenizer))
        collator = MaskingCollator(tokenizer, 0.15, SEED, shape.teacher.vocab_size)
        # The batches that the trainer makes of these rows.
        sampler = EpochSampler(len(rows), shape.rows, SEED, epoch=count().__next__)
        workers = 4 if ON_GPU else 0  # as the trainer has
        self.batches = DataLoader(
            rows, shape.rows, sampler=sampler, collate_fn=collator, num_workers=workers, pin_memory=ON_GPU
        )
        self.teacher, student = _models(shape)
        settings = tutor_kd.TutorKDSettings()
        self.module = tutor_kd.TutorKD(student, Teacher(self.teacher), tokenizer.all_special_ids, settings)
        for model in (student, self.teacher):
            model.set_attn_implementation("eager_scores")
        self.module.to(DEVICE).train()
        self.teacher.to(DEVICE)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=5e-4, eps=1e-6, weight_decay=0.01)

    def run(self, steps: int) -> float:
        """Take some steps to warm up, then ``steps`` more; the seconds a step of these."""
        for taken, batch in enumerate(islice(cycle(self.batches), WARM_UP + steps)):
            if taken == WARM_UP:
                start = now()
            with self.autocast:
                loss, _ = authors_step(self.module, self.teacher, send_to_device(batch, DEVICE, non_blocking=True))
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return (now() - start) / steps


class Stopwatch(TrainerCallback):
    """Seconds a step behind the first few, and until the first of all is done. A GPU isn't waited for in between."""

    def __init__(self) -> None:
        self.start: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = now()

    def on_step_end(self, args, state, control, **kwargs):
        if self.start is None:
            self.start = now() - self.began
        if state.global_step == WARM_UP:
            self.warm = now()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = (now() - self.warm) / (state.global_step - WARM_UP)


class StepClock(TrainerCallback):
    """Seconds of each step, from the batch to the cleared gradients, and of the optimizer in it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.optimizer: list[float] = []

    def on_step_begin(self, *args, **kwargs):
        self.step_start = now()

    def on_pre_optimizer_step(self, *args, **kwargs):
        self.optimizer_start = now()

    def on_optimizer_step(self, *args, **kwargs):
        self.optimizer.append(now() - self.optimizer_start)

    def on_step_end(self, *args, **kwargs):
        self.steps.append(now() - self.step_start)


class Ours:
    """``TutorKDTrainer`` itself: clipping, gradient norms and what it logs included."""

    def __init__(self, shape: Shape, bfloat16: bool, compiled: bool = False):
        tokenizer = _tokenizer(shape.teacher.vocab_size)
        self.rows = _text(shape, tokenizer)
        self.teacher, student = _models(shape)
        arguments = TutorKDConfig(
            output_dir=tempfile.gettempdir(),  # nothing is written
            per_device_train_batch_size=shape.rows,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            bf16=bfloat16,
            torch_compile=compiled,
            seed=SEED,
        )
        self.trainer = TutorKDTrainer(student, self.teacher, arguments, self.rows, tokenizer)
        self.trainer.remove_callback(ProgressTable)
        self.stopwatch = Stopwatch()
        self.trainer.add_callback(self.stopwatch)

    def run(self, steps: int) -> float:
        """Take some steps to warm up, then ``steps`` more; the seconds a step of these."""
        self.trainer.args.max_steps = WARM_UP + steps
        self.trainer.train()
        return self.stopwatch.seconds


def build(variant: str, shape: Shape) -> Baseline | Ours:
    if variant in (AUTHORS_FLOAT32, AUTHORS_FLOAT16):
        return Baseline(shape, float16=variant == AUTHORS_FLOAT16)
    return Ours(shape, bfloat16=variant != OURS_FLOAT32, compiled=variant == OURS_COMPILED)


# Measuring

# The counter knows the fused attention of GPUs alone.
for _suffix in ("", "_backward"):
    _known = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention" + _suffix)
    _processors = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu" + _suffix)
    flop_registry.setdefault(_processors, flop_registry[_known])


def now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


class Apart:
    """A variant in a process of its own, so that neither memory nor allocator is shared."""

    _variant: ClassVar[Baseline | Ours]  # in that process
    _imported: ClassVar[int]  # bytes before the models are made

    def __init__(self, variant: str, shape: str):
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=self._start, initargs=(variant, shape))

    @classmethod
    def _start(cls, variant: str, shape: str) -> None:
        cls._imported = psutil.Process().memory_info().rss
        cls._variant = build(variant, SHAPES[shape])

    def seconds(self, steps: int) -> float:
        """Seconds a step."""
        return self.pool.submit(self._run, steps).result()

    @classmethod
    def _run(cls, steps: int) -> float:
        return cls._variant.run(steps)

    def start(self) -> float:
        """Seconds from the beginning of the first run to the end of its first step; nan of the authors' order."""
        return self.pool.submit(self._start_of_run).result()

    @classmethod
    def _start_of_run(cls) -> float:
        return cls._variant.stopwatch.start if isinstance(cls._variant, Ours) else math.nan

    def flops(self) -> float:
        """Floating-point operations of all matrix products of a step, the mean of some; compiled ones aren't seen."""
        return self.pool.submit(self._flops).result()

    @classmethod
    def _flops(cls) -> float:
        with FlopCounterMode(display=False) as counter, plain():
            cls._variant.run(1)
        return counter.get_total_flops() / (WARM_UP + 1)

    def peak_memory(self) -> float:
        """Bytes at the highest so far, models and optimizer included, imports not; nan where it isn't told."""
        return self.pool.submit(self._peak_memory).result()

    @classmethod
    def _peak_memory(cls) -> float:
        if ON_GPU:
            return torch.cuda.max_memory_allocated()
        try:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return math.nan
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) - cls._imported


def compare(shape_name: str, rounds: int, steps: int, console: Console) -> None:
    """Time the variants in turn and print the table."""
    shape = SHAPES[shape_name]
    variants = {variant: Apart(variant, shape_name) for variant in VARIANTS}
    dtypes = {variant: DTYPES.get(variant, torch.float32) for variant in VARIANTS}
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    rates: dict[torch.dtype, float] = defaultdict(float)
    with tqdm(total=rounds * len(variants), unit="timing") as bar:
        for _ in range(rounds):
            for variant, apart in variants.items():
                bar.set_description(f"{shape_name}: {NAMES[variant]}")
                seconds[variant].append(apart.seconds(steps))
                rates[dtypes[variant]] = max(rates[dtypes[variant]], matmul_rate(dtypes[variant], DEVICE).median)
                bar.update()

    table = Table(title=f"{shape_name}: {shape}", title_justify="left")
    table.add_column("step", no_wrap=True)
    for column in ("s/step", "range", "tokens/s", "speed", "GFLOP/step", "matmul rate", "peak memory", "first step"):
        table.add_column(column, justify="right", no_wrap=True)
    for variant, apart in variants.items():
        median = statistics.median(seconds[variant])
        ratio = statistics.median(a / b for a, b in zip(seconds[VARIANTS[0]], seconds[variant], strict=True))
        memory, start, flops = apart.peak_memory(), apart.start(), apart.flops()
        apart.pool.shutdown()
        table.add_row(
            NAMES[variant],
            f"{median:.4f}",
            f"{min(seconds[variant]):.4f}-{max(seconds[variant]):.4f}",
            f"{shape.rows * shape.length / median:,.0f}",
            f"{ratio:.2f} x",
            f"{flops / 1e9:,.0f}",
            f"{flops / median / rates[dtypes[variant]]:.0%}",
            f"{memory / 2**30:.2f} GiB",
            "" if math.isnan(start) else f"{start:.1f} s",
        )
    table.caption = "measured matrix-product rate: " + ", ".join(
        f"{str(dtype).removeprefix('torch.')} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in rates.items()
    )
    table.caption_justify = "left"
    console.print(table)


@contextmanager
def timed_parts(ours: Ours) -> Iterator[dict[str, float]]:
    """Within, the seconds that each part of the step takes are summed by name; no part holds another."""
    trainer, module = ours.trainer, ours.trainer.model
    total: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs):
            start = now()
            result = function(*args, **kwargs)
            total[part] += now() - start
            return result

        return run

    places = [
        ("teacher reads X^M and X'", trainer.teacher.body, "forward"),
        ("teacher's vocabulary head, twice", trainer.teacher.head, "forward"),
        ("tutor's vocabulary head", module.tutor, "forward"),
        ("sampling", tutor, "sample_replacements"),
        ("student reads X'", module.student, "forward"),
        ("student's modified-logit head", module.modified_logit_head, "forward"),
        ("ratio", functional, "modified_logit_target"),
        ("R_T", functional, "teacher_reward"),
        ("R_S", functional, "student_reward"),
        ("L_mod", functional, "modified_logit_loss"),
        ("L_pol", functional, "policy_loss"),
        ("L_kl", functional, "plausibility_loss"),
        ("L_hid, with its projection", internal, "summed_hidden_state_loss"),
        ("L_att", internal, "summed_attention_score_loss"),
        ("tutor's entropy (log)", functional, "policy_entropy"),
        ("backward", trainer.accelerator, "backward"),
        ("gradient norms, clipping", trainer, "_get_grad_norm"),
    ]
    with ExitStack() as stack:
        for part, owner, name in places:
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield total


def profile(shape_name: str, rounds: int, steps: int, console: Console) -> None:
    """Print where our step's time goes."""
    columns: list[dict[str, float]] = []
    for variant in (OURS_FLOAT32, OURS_BFLOAT16):
        ours, clock = Ours(SHAPES[shape_name], variant == OURS_BFLOAT16), StepClock()
        ours.trainer.add_callback(clock)
        ours.run(1)
        samples = []
        for _ in range(rounds):
            clock.steps.clear()
            clock.optimizer.clear()
            with timed_parts(ours) as total:
                ours.run(steps)
            parts = dict(total) | {"optimizer": sum(clock.optimizer)}
            parts["everything else"] = sum(clock.steps) - sum(parts.values())
            samples.append({part: seconds / len(clock.steps) for part, seconds in parts.items()})
        columns.append({part: statistics.median(sample[part] for sample in samples) for part in samples[0]})
    table = Table(title=f"{shape_name}: {SHAPES[shape_name]}", title_justify="left")
    table.add_column("part of our step", no_wrap=True)
    for name in ("float32 ms", "share", "bfloat16 ms", "share"):
        table.add_column(name, justify="right")
    whole = [sum(column.values()) for column in columns]
    for part in columns[0]:
        cells = [
            cell
            for column, all_parts in zip(columns, whole, strict=True)
            for cell in (f"{column[part] * 1e3:.1f}", f"{column[part] / all_parts:.1%}")
        ]
        table.add_row(part, *cells)
    table.add_section()
    table.add_row("step", f"{whole[0] * 1e3:.1f}", "", f"{whole[1] * 1e3:.1f}", "")
    console.print(table)


def check() -> None:
    """Same inputs, same replaced tokens: same losses and gradients, rows with padding too.

    Raises:
        AssertionError: naming the loss or parameter that differs.
    """
    ours = Ours(CHECK_SHAPE, bfloat16=False)
    module, teacher = ours.trainer.model.eval(), ours.trainer.teacher  # dropout would be drawn differently
    module.forbidden_ids = module.forbidden_ids[:0]  # that code rules no token out
    ours.teacher.to(DEVICE)
    tokens = [row["input_ids"] for row in ours.rows[: CHECK_SHAPE.rows]]
    padded = [ids[: len(ids) - 5 * i] for i, ids in enumerate(tokens)]
    for rows in (tokens, padded):
        batch = ours.trainer.masking([{"input_ids": ids, "draw": i} for i, ids in enumerate(rows)])
        batch = send_to_device(batch, DEVICE)
        k = len(batch.masked_positions)
        replaced = torch.randint(5, CHECK_SHAPE.teacher.vocab_size, (k,), device=DEVICE)
        replaced[0] = batch.input_ids.flatten()[batch.masked_positions[0]]  # a ratio of exactly 1

        with patch.object(tutor, "sample_replacements", lambda *args, tokens=replaced, **kwargs: tokens):
            output = module(batch, teacher)
        implementation = module.student.config._attn_implementation
        for model in (module.student, ours.teacher):
            model.set_attn_implementation("eager_scores")
        total, losses = authors_step(module, ours.teacher, batch, lambda _, tokens=replaced: tokens)
        for model in (module.student, ours.teacher):
            model.set_attn_implementation(implementation)

        for name, value in (losses | {"loss": total}).items():
            mine = output.loss if name == "loss" else output.metrics[name]
            torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        parameters = {name: p for name, p in module.named_parameters() if "pooler" not in name}
        gradients = [torch.autograd.grad(loss, list(parameters.values())) for loss in (output.loss, total)]
        for name, mine, value in zip(parameters, *gradients, strict=True):
            bound = 1e-4 * value.abs().max().item()
            torch.testing.assert_close(mine, value, rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--shape", choices=SHAPES, help="one shape alone; default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of all variants in turn; default {ROUNDS}")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"timed steps a variant and round; default {STEPS}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only check that both compute the same")
    what.add_argument("--profile", action="store_true", help="print the parts of our step instead")
    args = parser.parse_args()
    console = Console(width=max(Console().width, 120))  # the table's width, also where output goes to a file
    check()
    console.print("check: the same losses and gradients in both orders")
    if args.check:
        return 0
    machine = describe()
    console.print(", ".join(f"{key}: {machine[key]}" for key in ("processor", "accelerator", "torch")))
    for shape in [args.shape] if args.shape else SHAPES:
        (profile if args.profile else compare)(shape, args.rounds, args.steps, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
