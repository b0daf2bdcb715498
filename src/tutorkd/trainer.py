"""The trainers: transformers' own, around a module that computes its losses on masked rows."""

import math
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import safetensors.torch
import torch
from accelerate.utils import parse_flag_from_env, send_to_device, set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints

from tutorkd.batch import Batch, BatchCounts
from tutorkd.callbacks import ProgressTable, StepsAsAsked, Throughput
from tutorkd.card import student_card, teacher_card
from tutorkd.checkpoints import SCRATCH, last_checkpoint, publish
from tutorkd.config import DistillationConfig, PretrainingConfig, TutorKDConfig
from tutorkd.data.rows import DrawnRows, EpochSampler, StreamedRows
from tutorkd.errors import UserError
from tutorkd.files import written_whole
from tutorkd.hub import loading, quiet_transformers
from tutorkd.hub_access import ask_hub, explain, first_line
from tutorkd.methods import METHODS, Method
from tutorkd.methods.masked_lm import MaskedLM
from tutorkd.methods.pair import check_apart, check_tokenizer
from tutorkd.methods.tutor_kd import TutorKD
from tutorkd.objective import MaskingCollator
from tutorkd.probe import IGNORED, mlm_metrics, probe_metrics
from tutorkd.runtime import keep_freed_memory
from tutorkd.step import spread
from tutorkd.students import PRESETS, build_student
from tutorkd.teacher import Teacher, frozen, load_teacher
from tutorkd.words import one_line

HEADS_FILE = "training_heads.safetensors"  # what training needs beside the model
_SCALE_HALVINGS = (
    25  # steps in a row in which the loss scale of fp16, 2^16 at first, may fall before a run has diverged
)


class GradientPart(NamedTuple):
    """Parameters whose gradient is clipped by itself."""

    parameters: list[nn.Parameter]
    max_norm: float  # 0 leaves the gradient as it is


def _clip(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip a gradient to a norm in place; returns the norm before, on the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


class MaskedRowsTrainer(Trainer):
    """``Trainer`` on packed rows that are masked anew each epoch.

    Batch size, accumulation, precision, resuming, checkpoints and ``report_to`` are ``Trainer``'s. Losses are means
    over the whole batch however it is split, the log's figures are averaged on the device and read at log time, a
    step whose gradient isn't finite is skipped and counted, and a resumed run equals one never interrupted.

    Args:
        module: computes the losses of a ``Batch``. It is trained, and saved, in float32, also where the checkpoint that
            it was loaded from is in 16 bits.
        model: the part of ``module`` that is saved as a plain transformers model.
        args: ``PretrainingConfig``.
        train_dataset: rows of token ids in a column ``input_ids``, such as ``prepare_corpus(...).train``.
        eval_dataset: likewise, held out.
        processing_class: the tokenizer.
        stage: what the progress bar calls this.

    Raises:
        UserError: for settings that can't be trained with; before the first step.
    """

    args: PretrainingConfig
    model: nn.Module
    processing_class: PreTrainedTokenizerBase

    def __init__(
        self,
        module: nn.Module,
        model: PreTrainedModel,
        args: PretrainingConfig,
        train_dataset: Any,
        eval_dataset: Any,
        processing_class: PreTrainedTokenizerBase,
        stage: str,
        **kwargs: Any,
    ):
        _refuse_sharding(args)
        if args.fp16 and args.device.type == "cpu":  # accelerate would train in float32 and say nothing
            raise UserError("fp16 needs a GPU; on a processor use bf16, or leave both out")
        if args.n_gpu > 1:
            raise UserError(
                "several GPUs in one process would need DataParallel, which this trainer doesn't do: start one process "
                "a GPU with `accelerate launch` or `torchrun`, or show it one GPU with CUDA_VISIBLE_DEVICES=0"
            )
        module.float()  # 16 bits round AdamW's steps away; what is saved is what was trained
        if args.gradient_checkpointing:
            _prepare_for_checkpointing(module, model, args)
        if args.eval_strategy != "no" and eval_dataset is None:
            raise UserError("there are no held-out rows to look at: pass eval_dataset, or set eval_strategy to no")
        self.get_optimizer_cls_and_kwargs(args, model)  # refuses one that isn't installed, before a folder is made
        self.data_seed = args.seed if args.data_seed is None else args.data_seed
        self.masking = MaskingCollator(processing_class, args.mlm_probability, self.data_seed, model.config.vocab_size)
        super().__init__(
            model=module,
            args=args,
            data_collator=cast(Any, self.masking),  # Trainer's own gives dictionaries
            train_dataset=DrawnRows(train_dataset)
            if hasattr(train_dataset, "__len__")
            else StreamedRows(train_dataset),
            eval_dataset=None if eval_dataset is None else DrawnRows(eval_dataset, args.eval_rows),
            processing_class=processing_class,
            **kwargs,
        )
        if args.device.type == "cpu":
            keep_freed_memory()
        self.saved_model = model
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self._progress = ProgressTable(stage)
        self.add_callback(self._progress)
        self._throughput = Throughput()
        self.add_callback(self._throughput)
        self.add_callback(StepsAsAsked())
        self._window: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=args.device))
        self._step_metrics: dict[str, Tensor] = {}
        self._nonfinite_in_a_row = self._skipped_steps = self._steps_since_log = 0
        self._writing_checkpoint = False

    # Data

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(rows, DrawnRows):
            return None
        # The state counts passes: a whole number where an epoch begins, more where a resumed run goes on within one.
        return EpochSampler(len(rows), self.data_seed, lambda: int(self.state.epoch or 0))

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The micro-batches of one step, and what its losses are means over, counted over all of them and devices."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack([torch.stack(batch.counts) for batch in batches])
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.sum(0, keepdim=True))
        whole = BatchCounts.total(counts)
        # Handed on in the batches; Trainer is told so that it doesn't divide the losses by the number of micro-batches.
        return [batch._replace(counts=whole) for batch in batches], whole

    def _prepare_inputs(self, inputs: Any) -> Any:
        """As Trainer's, which can't make named tuples."""
        return send_to_device(inputs, self.args.device)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        super()._track_num_input_tokens({key: value for key, value in inputs._asdict().items() if value is not None})

    # The step

    def _forward_arguments(self) -> dict[str, Any]:
        """What the module's forward pass takes beside the batch."""
        return {}

    def compute_loss(self, model, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None):
        """The losses of one micro-batch, each over the counts of the whole batch."""
        batch: Batch = inputs
        output = model(batch, **self._forward_arguments())
        for name, value in output.metrics.items():
            self._step_metrics[name] = self._step_metrics.get(name, 0) + value
        mask = batch.attention_mask
        self._window["tokens"] += batch.input_ids.numel() if mask is None else mask.sum()
        # Gradients are averaged over devices; every device's loss is already over all of them.
        loss = output.loss * self.args.world_size
        return (loss, output) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """As Trainer's; a loss that isn't finite doesn't spoil the logged average (its step is skipped and counted)."""
        return super().training_step(model, inputs, num_items_in_batch).nan_to_num(0.0, 0.0, 0.0)

    def _clip_grad_norm(self, model) -> None:
        """Nothing: ``_get_grad_norm``, which Trainer calls at every step, clips each part of the gradient by itself."""

    def _get_grad_norm(self, model, grad_norm=None):
        """Clips the gradient's parts; returns the norm of all of it before. A step that isn't finite is skipped."""
        self.accelerator.unscale_gradients()
        norms = {name: _clip(part.parameters, part.max_norm) for name, part in self._gradient_parts().items()}
        norm = torch.stack(list(norms.values())).square().sum().sqrt()
        self._step_metrics |= {name: value for name, value in norms.items() if name != "grad_norm"}  # Trainer's own
        # Of a step that isn't finite no figure counts. With fp16 only the device knows which steps these are.
        finite = norm.isfinite()
        for name, value in self._step_metrics.items():
            self._window[name] += torch.where(finite, value, 0)
        self._window["steps"] += finite
        self._steps_since_log += 1
        self._step_metrics = {}
        # The gradient scaler of fp16 finds, skips and mends overflowing steps by itself.
        if self.accelerator.scaler is None:
            self._nonfinite_in_a_row = 0 if math.isfinite(norm) else self._nonfinite_in_a_row + 1
            if self._nonfinite_in_a_row:
                model.zero_grad(set_to_none=True)  # without gradients the optimizer leaves everything as it is
                self._stop_if_diverged(self.args.max_nonfinite_steps, self.state.global_step + 1)
        return norm.nan_to_num(0.0, 0.0, 0.0)

    def _gradient_parts(self) -> dict[str, "GradientPart"]:
        """What is clipped by itself, under the name that its norm before clipping is logged by."""
        return {"grad_norm": GradientPart(list(self.model.parameters()), self.args.max_grad_norm)}

    def _stop_if_diverged(self, limit: int, step: int) -> None:
        if self._nonfinite_in_a_row >= limit:
            raise UserError(
                f"the gradient wasn't finite in {self._nonfinite_in_a_row} steps in a row, up to step {step}; "
                f"{self._last_checkpoint()}; a lower --learning_rate or bf16 instead of fp16 may help"
            )

    # What is shown

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the module's figures, averaged over the steps since the last log; the only place that reads them."""
        if "loss" in logs:
            names = sorted(self._window)
            values = torch.stack([self._window[name].float() for name in names])
            if self.args.world_size > 1:
                values = self.accelerator.gather(values.unsqueeze(0)).sum(0)
            window = dict(zip(names, values.tolist(), strict=True))
            tokens, steps = window.pop("tokens", 0.0), round(window.pop("steps", 0.0) / self.args.world_size)
            for name, total in window.items() if steps else ():
                # Every device holds the same gradient norm, but only its share of the other means.
                devices = self.args.world_size if name.startswith("grad_norm") else 1
                logs[name] = total / steps / devices
            self._skipped_steps += self._steps_since_log - steps
            if self._skipped_steps:
                logs["skipped_steps"] = self._skipped_steps
            logs |= self._throughput.read(tokens, self.state.global_step, self.state.max_steps)
            self._window.clear()
            if self.accelerator.scaler is not None:
                self._nonfinite_in_a_row = 0 if steps else self._nonfinite_in_a_row + self._steps_since_log
                self._stop_if_diverged(max(self.args.max_nonfinite_steps, _SCALE_HALVINGS), self.state.global_step)
            self._steps_since_log = 0
        super().log(logs, start_time)

    def _inner_training_loop(self, *args: Any, **kwargs: Any):
        if self.args.world_size > 1:  # else every process would draw the same tokens and the same dropout
            set_seed(self.args.seed, device_specific=True)
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._progress.close()

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer's, but training goes on as if it hadn't happened: no random number of its is used."""
        if eval_dataset is not None:
            eval_dataset = DrawnRows(eval_dataset, self.args.eval_rows)
        with torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []):
            return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the module gives losses, not predictions.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this trainer doesn't predict: evaluate() gives figures on held-out rows; to predict, load with "
            "transformers what save_model() wrote"
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss on held-out rows and, where ``_look`` has any, what its figures are computed from."""
        batch: Batch = self._prepare_inputs(inputs)
        module = self.accelerator.unwrap_model(model)
        if self.compute_metrics is None:
            with torch.no_grad():
                return module(batch, **self._forward_arguments()).loss, None, None
        looks = self._look(module, batch)
        first, *others = (spread(values, batch.masked_positions, batch.input_ids, IGNORED) for values in looks)
        return None, first, tuple(others)

    def _look(self, module: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """What held-out rows are judged by: tensors (k,) over the masked positions, for ``compute_metrics``."""
        raise NotImplementedError

    # What is kept

    def _write_card(self, folder: Path) -> None:
        raise NotImplementedError

    def _heads(self, module: nn.Module) -> dict[str, nn.Parameter]:
        saved = {id(parameter) for parameter in self.saved_model.parameters()}
        return {name: p for name, p in module.named_parameters() if id(p) not in saved}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The model as plain transformers, tokenizer and card; beside it the heads that only training needs."""
        if not self.args.should_save:
            return
        with quiet_transformers(), written_whole(Path(output_dir or self.args.output_dir)) as folder:
            self.saved_model.save_pretrained(folder)
            if heads := self._heads(self.accelerator.unwrap_model(self.model)):
                safetensors.torch.save_file(
                    {name: p.detach().contiguous() for name, p in heads.items()},
                    folder / HEADS_FILE,
                    metadata={"format": "pt"},
                )
            self.processing_class.save_pretrained(folder)
            self._write_card(folder)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's, which makes the repository when it is itself made; refusals in one line."""
        with _pushing(self.args, "no step was done"):
            ask_hub()
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; refusals in one line."""
        with _pushing(self.args, f"the model is in {self.args.output_dir}"):
            return super().push_to_hub(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Not Trainer's, which it would put in the place of ours when it pushes to the Hub."""

    def _get_output_dir(self, trial: Any) -> str:
        """As Trainer's; while a checkpoint is written, the folder from where it is published."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / SCRATCH) if self._writing_checkpoint else folder

    def _save_checkpoint(self, model, trial) -> None:
        """As Trainer's, but a checkpoint gets its place once the parts of all processes are on the disk."""
        output = Path(self._get_output_dir(trial))
        written = output / SCRATCH / f"checkpoint-{self.state.global_step}"
        place = output / written.name
        try:
            if self.args.should_save:
                shutil.rmtree(written.parent, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self._writing_checkpoint = True
            with quiet_transformers():
                super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(place)
                if self.args.should_save:
                    self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(written, output)
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{place} couldn't be written ({one_line(error)}); free space or choose another "
                f"--output_dir; {self._last_checkpoint()}"
            ) from error
        finally:
            self._writing_checkpoint = False
            if self.args.should_save:
                shutil.rmtree(written.parent, ignore_errors=True)
        if self.args.should_save:
            rotate_checkpoints(str(output), self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As Trainer's, once the checkpoint has its place."""
        if not self._writing_checkpoint:
            super()._push_from_checkpoint(checkpoint_folder)

    def _last_checkpoint(self) -> str:
        checkpoint = last_checkpoint(self.args.output_dir)
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint had been saved before"

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        heads = self._heads(self.accelerator.unwrap_model(self.model if model is None else model))
        with loading(resume_from_checkpoint, "checkpoint"):
            loaded = type(self.saved_model).from_pretrained(resume_from_checkpoint, dtype=self.saved_model.dtype)
            self.saved_model.load_state_dict(loaded.state_dict())
            stored = safetensors.torch.load_file(Path(resume_from_checkpoint) / HEADS_FILE) if heads else {}
            for name, parameter in heads.items():
                parameter.copy_(stored[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def _refuse_sharding(args: PretrainingConfig) -> None:
    """Refuse engines that spread a model over devices, whether the arguments or ``accelerate launch`` ask for them.

    Raises:
        UserError: with what to start instead.
    """
    asked = [name for name in ("fsdp", "deepspeed", "parallelism_config") if getattr(args, name)]
    launched = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
    asked += [name for name in (*launched, "ACCELERATE_USE_PARALLELISM_CONFIG") if parse_flag_from_env(name)]
    if asked:
        raise UserError(
            f"{asked[0]} isn't to be set: each device holds a whole copy of the model here; start one process a device "
            "with torchrun, or with an accelerate configuration for several devices without FSDP and DeepSpeed"
        )


def _prepare_for_checkpointing(module: nn.Module, model: PreTrainedModel, args: PretrainingConfig) -> None:
    """Let Trainer, which asks ``module`` for gradient checkpointing, find it at ``model``.

    Raises:
        UserError: if the model can't, or in the way that runs the forward pass without gradients.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing: transformers has none for a {type(model).__name__}; leave it out")
    # Queries, keys and values are taken during the forward pass; they have a gradient only if it is kept there.
    if cast(dict, args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
        raise UserError("gradient_checkpointing_kwargs: use_reentrant can't be true here; leave it out")
    for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
        if hasattr(model, name):
            setattr(module, name, getattr(model, name))


@contextmanager
def _pushing(args: PretrainingConfig, state: str) -> Iterator[None]:
    """Turn what the Hub can refuse of a push into one line that ends with ``state``.

    Raises:
        UserError: saying what it refuses.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # errors of the Hub client and of the network share no base class
        name = args.hub_model_id or Path(args.output_dir).name
        reason = explain(error, name, "model") or first_line(error)
        raise UserError(f"push_to_hub: {reason}; or leave push_to_hub out; {state}") from error


class MaskedLMTrainer(MaskedRowsTrainer):
    """Masked-language-model training of ``model`` (body and MLM head), as ``tutorkd adapt`` does it."""

    def __init__(self, model: PreTrainedModel, args: PretrainingConfig, **kwargs: Any):
        super().__init__(MaskedLM(model), model, args, compute_metrics=mlm_metrics, stage="adapt", **kwargs)

    def _look(self, module, batch):
        return module.score(batch)

    def _write_card(self, folder: Path) -> None:
        teacher_card(folder, self.saved_model, self.args, self.state)


class DistillationTrainer(MaskedRowsTrainer):
    """Distil a teacher into a student by one of ``tutorkd.methods.METHODS``.

    Args:
        model: the student: an encoder without a head or, where the method needs it, a masked language model; or what
            ``build_student`` takes: "half", a preset, a Hub name or a path. It is trained, and saved, in float32, also
            where the checkpoint that it was loaded from is in 16 bits.
        teacher_model: a masked language model by Hub name or path, loaded, or as a ``Teacher``. A model of
            your own stays as it is, in number format, device, mode and attention; a ``Teacher`` is moved to the device.
        args: ``DistillationConfig``.
        train_dataset, eval_dataset, processing_class: as for ``MaskedRowsTrainer``; the tokenizer is the teacher's.
        method: a name in ``METHODS``.
        settings: the method's constants; its defaults if left out.
        module: what ``build_module`` made of the same, where that was done before there were rows.

    Raises:
        UserError: if the pair, the tokenizer or the rows can't be trained on; before the first step.
    """

    args: DistillationConfig

    def __init__(
        self,
        model: PreTrainedModel | str,
        teacher_model: str | PreTrainedModel | Teacher,
        args: DistillationConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Any = None,
        method: str = "tutor-kd",
        settings: Any = None,
        module: nn.Module | None = None,
        **kwargs: Any,
    ):
        self.method = METHODS[method]
        self.settings = self.method.settings() if settings is None else settings
        teacher = prepare_teacher(teacher_model, args)
        named = isinstance(teacher_model, str)
        check_tokenizer("teacher", teacher.config.name_or_path, processing_class, fetch=named)
        if isinstance(model, str):
            check_tokenizer("student", "" if model in PRESETS else model, processing_class, fetch=True)
            model = build_student(model, teacher.config, mlm_head=self.settings.needs_mlm_head)
        else:
            check_tokenizer("student", model.config.name_or_path, processing_class)
        if module is None:
            torch.manual_seed(args.seed)  # the heads' start, whatever was drawn before
            module = build_module(self.method, model, teacher, self.settings, processing_class)
        super().__init__(
            module,
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            stage="distill",
            compute_metrics=probe_metrics if getattr(self.settings, "target", None) == "modified-logit" else None,
            **kwargs,
        )
        self.teacher = teacher.to(args.device)
        self._probe_generator = torch.Generator(args.device)

    def _forward_arguments(self) -> dict[str, Any]:
        return {"teacher": self.teacher}

    def _gradient_parts(self) -> dict[str, GradientPart]:
        """The tutor's gradient apart from the student's: a spike of one doesn't shrink the other's step."""
        module = self.accelerator.unwrap_model(self.model)
        tutor = list(module.tutor.parameters()) if getattr(module, "tutor", None) is not None else []
        own = {id(p) for p in tutor}
        student = [p for p in module.parameters() if id(p) not in own]
        parts = {"grad_norm_student": GradientPart(student, self.args.max_grad_norm)}
        if tutor:
            parts["grad_norm_tutor"] = GradientPart(tutor, self.settings.tutor_max_grad_norm)
        return parts

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """For Tutor-KD the probe (``tutorkd.probe``), which asks the same questions each time; else the loss."""
        self._probe_generator.manual_seed(self.args.seed)
        return super().evaluate(*args, **kwargs)

    def _look(self, module, batch):
        return module.answer(batch, self.teacher, self._probe_generator)

    def _write_card(self, folder: Path) -> None:
        student_card(folder, self.saved_model, self.teacher, self.method, self.settings, self.args, self.state)


class TutorKDTrainer(DistillationTrainer):
    """``DistillationTrainer`` for Tutor-KD, its constants among the arguments (``TutorKDConfig``)."""

    args: TutorKDConfig

    def __init__(
        self,
        model: PreTrainedModel | str,
        teacher_model: str | PreTrainedModel | Teacher,
        args: TutorKDConfig,
        train_dataset: Any,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            model, teacher_model, args, train_dataset, processing_class, eval_dataset, settings=args, **kwargs
        )


def build_module(
    method: Method,
    student: PreTrainedModel,
    teacher: Teacher,
    settings: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> nn.Module:
    """What a method trains.

    Raises:
        UserError: if student, teacher and tokenizer can't be trained together.
    """
    check_apart(student, teacher)
    if len(tokenizer) > teacher.config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the teacher {teacher.config.vocab_size}: "
            "use the teacher's own tokenizer"
        )
    own: dict[str, Any] = {}
    if method.module is TutorKD:
        beyond = range(len(tokenizer), teacher.config.vocab_size)  # vocabularies are padded to round numbers
        own["forbidden_ids"] = sorted({*tokenizer.all_special_ids, *beyond})
    return method.module(student=student, teacher=teacher, settings=settings, **own)


def prepare_teacher(
    teacher: str | PreTrainedModel | Teacher, args: DistillationConfig, trust_remote_code: bool = False
) -> Teacher:
    """A frozen teacher in the number format that ``args.teacher_dtype`` asks for; what is given stays in its own."""
    low = args.teacher_dtype == "bfloat16" or (args.teacher_dtype == "auto" and args.bf16)
    dtype = torch.bfloat16 if low else torch.float32
    if isinstance(teacher, str):
        return load_teacher(teacher, dtype, trust_remote_code)
    if isinstance(teacher, Teacher):
        return teacher if teacher.body.dtype == dtype else frozen(teacher, dtype)
    return Teacher(teacher, dtype)
