"""Which of ``TrainingArguments``' options the commands show, and where; which they hide and refuse."""

# Shown by --help, in our words; --help-all shows the others too.
COMMON = {
    "max_steps": "Steps to train; with -1, num_train_epochs decides.",
    "gradient_accumulation_steps": "Batches whose gradients are added up for one step, a number.",
    "lr_scheduler_type": "How the learning rate goes after warm-up: linear, cosine, constant_with_warmup ...",
    "adam_beta1": "Decay of AdamW's mean of gradients, from 0 to 1.",
    "adam_beta2": "Decay of AdamW's mean of squared gradients, from 0 to 1.",
    "max_grad_norm": "Norm to which the gradient is clipped (of Tutor-KD the student's); 0 leaves it as it is.",
    "seed": "Seed of weights, masks, row order and dropout, an integer.",
    "bf16": "Train in bfloat16 (true or false); by default if the device multiplies it natively.",
    "fp16": "Train in float16, for GPUs without bfloat16.",
    "gradient_checkpointing": "Compute activations again in the backward pass (true or false): less memory, more time.",
    "use_cpu": "Train on the processor, not the GPU (true or false).",
    "eval_strategy": "When to look at held-out text: every eval_steps steps, after each epoch, or not at all (no).",
    "eval_steps": "Steps between looks at held-out text; below 1, a share of all steps; by default logging_steps.",
    "save_steps": "Steps between checkpoints; below 1, a share of all steps.",
    "report_to": "Trackers that get the log, names such as tensorboard or wandb; you install them yourself.",
    "run_name": "Name of the run in trackers (a word).",
    "push_to_hub": "Upload checkpoints and model to the Hub; needs a login.",
    "hub_model_id": "Repository on the Hub (a name); by default the folder's.",
}

# Of these options and of ours: what nearly every run sets, and what few do; --help shows them ahead and behind.
FIRST = ("output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "learning_rate")
SELDOM = (
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_nonfinite_steps", "fp16", "use_cpu", "torch_compile"),
    *("dataloader_num_workers", "per_device_eval_batch_size", "report_to", "run_name", "push_to_hub", "hub_model_id"),
    "disable_tqdm",
)

_BATCHES = "rows, masks and batches are made by tutorkd"
_LOSSES = "losses and their means over the batch are those of the method"
_FIGURES = "what is computed from held-out rows is fixed"
_GOING_ON = "the same command goes on from its last checkpoint by itself, exactly as if it hadn't stopped"
_COPIES = "each device holds a whole copy of the model: start one process for each device with torchrun"

# Refused unless given their default, with the reason: they change nothing here, or break what the commands promise.
REFUSED = {
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "the command says what is done"),
    **dict.fromkeys(
        ("resume_from_checkpoint", "ignore_data_skip", "save_only_model", "enable_jit_checkpoint"), _GOING_ON
    ),
    **dict.fromkeys(
        ("remove_unused_columns", "train_sampling_strategy", "length_column_name", "label_names"), _BATCHES
    ),
    "dataloader_drop_last": "every step has all of its rows, whatever the number of rows",
    **dict.fromkeys(("label_smoothing_factor", "average_tokens_across_devices", "logging_nan_inf_filter"), _LOSSES),
    **dict.fromkeys(("neftune_noise_alpha", "use_liger_kernel", "liger_kernel_config", "use_cache"), _LOSSES),
    **dict.fromkeys(("prediction_loss_only", "include_for_metrics", "batch_eval_metrics"), _FIGURES),
    **dict.fromkeys(("eval_do_concat_batches", "bf16_full_eval", "fp16_full_eval"), _FIGURES),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "local_rank"), _COPIES),
}

# Of these what the trainers refuse from Python too: what their step makes itself, whoever asks for it. Which means are
# taken over devices Trainer sets itself.
REFUSED_FROM_PYTHON = {
    name: reason
    for name, reason in REFUSED.items()
    if reason in (_BATCHES, _LOSSES, _FIGURES) and name != "average_tokens_across_devices"
}
# What Trainer takes beside its settings, likewise.
REFUSED_PARTS = {
    "data_collator": _BATCHES,
    "compute_loss_func": _LOSSES,
    **dict.fromkeys(("compute_metrics", "preprocess_logits_for_metrics"), _FIGURES),
    "model_init": "a student is given, or named",
}
