"""The trainer's step: transformers' own, around a module that computes its losses on rows of text."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import send_to_device, set_seed
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from tutorkd.arguments import check_arguments, check_best, prepare_for_checkpointing
from tutorkd.batch import Batch
from tutorkd.callbacks import SKIPPED_STEPS, ProgressTable, StepsAsAsked, Throughput
from tutorkd.compilation import Compilation, plain
from tutorkd.config import PretrainingConfig, compiling_left_to_us, shards
from tutorkd.continuation import ends_of
from tutorkd.data.chats import ANSWERED, answer_end
from tutorkd.data.rows import DrawnRows, EpochSampler, StreamedRows, column_names, first_row
from tutorkd.errors import UserError
from tutorkd.gradients import GradientPart, clip
from tutorkd.masking import MaskingCollator
from tutorkd.objective import CAUSAL, EMBEDDING, Objective, objective_of
from tutorkd.padding import TextCollator
from tutorkd.positions import check_length, check_positions, longest_row
from tutorkd.probe import IGNORED
from tutorkd.runtime import keep_freed_memory
from tutorkd.saving import SavingTrainer
from tutorkd.spacing import SpacedCollator
from tutorkd.step import Figure, spread
from tutorkd.window import Window

# Steps in a row in which the loss scale of fp16, 2^16 at first, may fall before a run has diverged.
_SCALE_HALVINGS = 25


class PackedRowsTrainer(SavingTrainer):
    """``Trainer`` on packed rows that are masked anew each epoch, or read as they are by causal models.

    Batch size, accumulation, precision, resuming, checkpoints and ``report_to`` are ``Trainer``'s. Losses are means
    over the whole batch however it is split, the log's figures are averaged on the device and read at log time, a
    step whose gradient isn't finite is skipped and counted, and a resumed run equals one never interrupted.

    Args:
        module: computes the losses of a ``Batch``. It is trained, and saved, in float32, also where the checkpoint that
            it was loaded from is in 16 bits.
        model: the part of ``module`` that is saved as a plain transformers model.
        args: ``PretrainingConfig``.
        train_dataset: rows of token ids in a column ``input_ids``, such as ``prepare_corpus(...).train``. For a stream,
            ``args.dataloader_num_workers`` is brought down to 1.
        eval_dataset: likewise, held out.
        processing_class: the tokenizer.
        stage: what the progress bar calls this.
        figures: what is shown of the log, in its order, beside the loss.
        objective: what the rows are read for; by default what ``model`` is for.
        spacing: of a causal model, the share of the tokens that a tutor replaces, and how many lie between two.
        likeliest: of a causal model, how many of its teacher's likeliest tokens rows have beside them.
        taught: of an embedding model whose teacher has another tokenizer, what collates the teacher's rows.

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
        figures: Sequence[Figure],
        objective: Objective | None = None,
        spacing: tuple[float, int] = (0.0, 0),
        likeliest: int = 0,
        taught: TextCollator | None = None,
        **kwargs: Any,
    ):
        check_arguments(args)
        check_best(args, figures)
        if hasattr(train_dataset, "__len__") and not len(train_dataset):
            raise UserError("there are no rows to train on: train_dataset is empty")
        if args.eval_strategy != "no" and eval_dataset is None:
            raise UserError("there are no held-out rows to look at: pass eval_dataset, or set eval_strategy to no")
        if not hasattr(train_dataset, "__len__"):  # a stream has one order, in which one worker alone can read it
            args.dataloader_num_workers = min(args.dataloader_num_workers or 0, 1)
        module.float()  # 16 bits round AdamW's steps away; what is saved is what was trained
        if args.gradient_checkpointing:
            prepare_for_checkpointing(module, model, args)
        self.get_optimizer_cls_and_kwargs(args, model)  # refuses one that isn't installed, before a folder is made
        self.data_seed = args.seed if args.data_seed is None else args.data_seed
        self.objective: Objective = objective or objective_of(model)
        of_rows = self.data_seed, model.config.vocab_size
        self.masking: MaskingCollator | SpacedCollator | TextCollator
        if self.objective is CAUSAL:
            self.masking = SpacedCollator(processing_class, *spacing, *of_rows, likeliest)
        elif self.objective is EMBEDDING:
            self.masking = TextCollator(processing_class, model.config.vocab_size, taught)
        else:
            self.masking = MaskingCollator(processing_class, args.mlm_probability, *of_rows)
        drawn = DrawnRows(train_dataset) if hasattr(train_dataset, "__len__") else StreamedRows(train_dataset)
        of_chats = ANSWERED in column_names(train_dataset)
        self._of_unequal_lengths = self.objective is EMBEDDING or of_chats
        if self._of_unequal_lengths:
            if args.torch_compile:
                raise UserError("torch_compile: rows of unequal lengths can't go through one graph; leave it out")
            args = copy.copy(args)  # the user's stay as they are, by which a run is known
            args.torch_compile = False
        if self.objective is CAUSAL and of_chats:
            _end_with(answer_end(processing_class), model)
        self._longest_rows: dict[str, int] = {}  # that each model reads, by its role
        self._first_row = first_row(drawn)
        self._check_rows(model, "student" if stage == "distill" else "model")
        with compiling_left_to_us(args):
            super().__init__(
                model=module,
                args=args,
                data_collator=cast(Any, copy.copy(self.masking)),  # Trainer's own gives dictionaries
                train_dataset=drawn,
                eval_dataset=None if eval_dataset is None else DrawnRows(eval_dataset, args.eval_rows),
                processing_class=processing_class,
                **kwargs,
            )
        self.model_accepts_loss_kwargs = True  # Trainer is told that losses are means over the whole accumulated batch
        if args.device.type == "cpu" and not shards(args):  # what is gathered of a teacher is meant to be given back
            keep_freed_memory()
        self.saved_model = model
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self._progress = ProgressTable(stage, figures)
        if not args.disable_tqdm:
            self.add_callback(self._progress)
        self._throughput = Throughput()
        self.add_callback(self._throughput)
        self.add_callback(StepsAsAsked())
        self._compilation = Compilation(module, cast(Any, self.data_collator), self._progress.note)
        self.add_callback(self._compilation)
        self._window = Window(args.device)
        self._skipped_steps = 0

    # Data

    def _check_rows(self, model: PreTrainedModel, role: str) -> None:
        """Refuse rows that a model can't read: by the first of them at once, too long ones when they are read.

        Raises:
            UserError: if the first is longer than the model's positions, or of another tokenizer.
        """
        check_positions(model, role, len(self._first_row))
        if max(self._first_row, default=0) >= model.config.vocab_size:
            raise UserError(
                f"the first row holds the token {max(self._first_row)}, and the {role} knows "
                f"{model.config.vocab_size} tokens: make rows with the tokenizer of these models"
            )
        if (longest := longest_row(model)) is not None:
            self._longest_rows[role] = min(longest, self._longest_rows.get(role, longest))

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(rows, DrawnRows):
            return None
        rows_a_step = self.get_total_train_batch_size(self.args)
        # The state counts epochs: a whole number where one begins, more where a resumed run goes on within one.
        lengths = rows.lengths if self._of_unequal_lengths else None
        return EpochSampler(len(rows), rows_a_step, self.data_seed, lambda: int(self.state.epoch or 0), lengths)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As Trainer's, but batches keep their own shapes: what is drawn for them doesn't depend on compiling."""
        of_training, self.data_collator = self.data_collator, cast(Any, self.masking)
        try:
            loader = super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.data_collator = of_training
        if self.compute_metrics is None:
            self._items_a_row = self._mean_items(loader.dataset)
        return loader

    def _mean_items(self, rows: Any) -> Tensor:
        """What losses are means over (``Batch.num_items``), of one of these rows in the mean."""
        step = self.args.per_device_eval_batch_size
        parts = (
            [rows[index] for index in range(len(rows))[start : start + step]] for start in range(0, len(rows), step)
        )
        return sum((self.masking(part).num_items for part in parts), torch.zeros(())) / max(len(rows), 1)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The micro-batches of one step, and what its losses are means over, counted over all of them and devices."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        whole = batches[0].num_items
        if len(batches) > 1 or self.args.world_size > 1:
            whole = torch.stack([batch.num_items for batch in batches]).sum(0, keepdim=True)
            whole = (self.accelerator.gather(whole) if self.args.world_size > 1 else whole).sum(0)
        # Handed on in the batches; Trainer is told so that it doesn't divide the losses by the number of micro-batches.
        return [batch._replace(num_items=whole) for batch in batches], whole

    def _prepare_inputs(self, inputs: Any) -> Any:
        """As Trainer's, which can't make named tuples; rows longer than a model's positions are refused."""
        for role, longest in self._longest_rows.items():
            check_length(longest, role, inputs.input_ids.shape[1])
        return send_to_device(inputs, self.args.device)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        super()._track_num_input_tokens({key: value for key, value in inputs._asdict().items() if value is not None})

    # The step

    def _learned_from(self, module: nn.Module, batch: Batch) -> Batch:
        """The batch that a step reads, where it isn't the text's."""
        return batch

    def _share_written(self) -> float:
        """Of the rows, the share that the student writes itself before a step, in the mean."""
        return 0.0

    def _forward_arguments(self) -> dict[str, Any]:
        """What the module's forward pass takes beside the batch."""
        return {}

    def compute_loss(self, model, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None):
        """The losses of one micro-batch, each over the counts of the whole batch."""
        batch = self._learned_from(self.accelerator.unwrap_model(model), inputs)
        with self._compilation.around(batch):
            output = model(batch, **self._forward_arguments())
        mask = batch.attention_mask
        self._window.add(output.metrics, batch.input_ids.numel() if mask is None else mask.sum())
        # Gradients are averaged over devices; every device's loss is already over all of them.
        loss = output.loss * self.args.world_size
        return (loss, output) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """As Trainer's; a loss that isn't finite doesn't spoil the logged average (its step is skipped and counted)."""
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except TorchDynamoException as error:
            self._compilation.give_up(error)
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.accelerator.sync_gradients:  # more micro-batches follow
            self._compilation.keep_gradients()
        return loss.nan_to_num(0.0, 0.0, 0.0)

    def _clip_grad_norm(self, model) -> None:
        """Nothing: ``_get_grad_norm``, which Trainer calls at every step, clips each part of the gradient by itself."""

    def _get_grad_norm(self, model, grad_norm=None):
        """Clips the gradient's parts; returns the norm of all of it before. A step that isn't finite is skipped."""
        self.accelerator.unscale_gradients()
        parts = self._gradient_parts()
        norms = [clip(part.parameters, part.max_norm) for part in parts]
        norm = torch.stack(norms).square().sum().sqrt()
        logged = {part.norm.name: each for part, each in zip(parts, norms, strict=True) if part.norm is not None}
        # Which steps aren't finite only the device knows: nobody waits for its answer before the log is read.
        finite = norm.isfinite()
        self._window.end_step(logged, finite)
        if self.accelerator.scaler is None:  # fp16's finds, skips and mends overflowing steps by itself
            self._skip_unless(finite, model)
        return norm.nan_to_num(0.0, 0.0, 0.0)

    def _gradient_parts(self) -> list[GradientPart]:
        """What is clipped by itself; together all parameters."""
        return [GradientPart(None, list(self.model.parameters()), self.args.max_grad_norm)]

    def _skip_unless(self, finite: Tensor, model: nn.Module) -> None:
        """Have the optimizer leave everything as it is in a step that isn't ``finite``, () bool on the device."""
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # fused kernels look at this flag on the device
            optimizer.found_inf = (~finite).float()
        elif not finite:
            model.zero_grad(set_to_none=True)

    def _stop_if_diverged(self, in_a_row: int) -> None:
        limit = self.args.max_nonfinite_steps
        if in_a_row >= (limit if self.accelerator.scaler is None else max(limit, _SCALE_HALVINGS)):
            raise UserError(
                f"the gradient wasn't finite in {in_a_row} steps in a row, up to step {self.state.global_step}; "
                f"{self._last_checkpoint()}; a lower --learning_rate or bf16 instead of fp16 may help"
            )

    # What is shown

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the module's figures, averaged over the steps since the last log."""
        if "loss" in logs:
            means = self._window.read(self.args.world_size, self.accelerator.gather)
            self._skipped_steps += means.skipped
            logs |= means.figures
            if self._skipped_steps:
                logs[SKIPPED_STEPS.name] = self._skipped_steps
            logs |= self._throughput.read(means.tokens, self.state.global_step, self.state.max_steps)
            self._stop_if_diverged(means.skipped_in_a_row)
        super().log(logs, start_time)

    def _inner_training_loop(self, *args: Any, **kwargs: Any):
        if self.args.world_size > 1:  # else every process would draw the same tokens and the same dropout
            set_seed(self.args.seed, device_specific=True)
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self._progress.close()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As Trainer's; where other processes wrote the checkpoint, each draws anew, from the seed and the step."""
        if checkpoint and len(list(Path(checkpoint).glob("rng_state*.pth"))) != self.args.world_size:
            place = [self.args.seed, self.state.global_step, self.args.process_index]
            set_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        else:
            super()._load_rng_state(checkpoint)

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
            # Trainer takes the mean over rows; with these counts it is that over all rows' positions.
            items = self._items_a_row.to(batch.input_ids.device) * len(batch.input_ids)
            batch = batch._replace(num_items=items)
            with torch.no_grad(), plain():
                return module(batch, **self._forward_arguments()).loss, None, None
        looks = self._look(module, batch)
        asked = self.objective.asked(batch)
        first, *others = (spread(values, asked, batch.input_ids, IGNORED) for values in looks)
        return None, first, tuple(others)

    def _look(self, module: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """What held-out rows are judged by: a tensor of the positions that the objective asks about, or several, for
        ``compute_metrics``.
        """
        raise NotImplementedError


def _end_with(end: int | None, model: PreTrainedModel) -> None:
    """Have ``generate`` stop at a token too, with which a model that learns answers comes to end them."""
    if end is not None and (settings := getattr(model, "generation_config", None)) is not None:
        known = ends_of(settings)
        if end not in known:
            settings.eos_token_id = [*known, end]
