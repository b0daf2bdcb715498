"""A model into a teacher, by training on the user's text."""

from functools import partial
from pathlib import Path

from transformers import set_seed

from tutorkd.errors import UserError
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.kinds import objective_of_checkpoint
from tutorkd.objective import CAUSAL
from tutorkd.positions import check_positions
from tutorkd.pretraining.adapt_arguments import Adaptation
from tutorkd.pretraining.run import Prepared, run_training
from tutorkd.trainer import CausalLMTrainer, MaskedLMTrainer


def adapt(options: Adaptation) -> Path:
    """Train the teacher, or print the plan; returns its folder.

    Raises:
        Interrupted: if a signal stopped the run.
        UserError: if model, text or settings can't be used.
    """
    args, text, config = options.args, options.text, options.config
    if not args.model:
        raise UserError("no model: name the model to adapt with --model")
    return run_training(
        [args, text, config], text, config, args.restart, args.dry_run, args.drop_checkpoints, lambda: _prepare(options)
    )


def _prepare(options: Adaptation) -> Prepared:
    args, text = options.args, options.text
    objective = objective_of_checkpoint(args.model, args.trust_remote_code)
    tokenizer = load_tokenizer(args.model, "model", args.trust_remote_code, objective.special_tokens)
    lines = text.check(tokenizer, objective)
    set_seed(options.config.seed)  # a head that isn't there starts at random
    model, missing = load_model(objective.model_class, args.model, "model", trust_remote_code=args.trust_remote_code)
    check_positions(model, "model", text.max_length)
    head = "starts at random" if missing else "goes on from the checkpoint's"
    lines.append(f"model    {args.model}: {model.num_parameters() / 1e6:.1f} M parameters, its {objective.head} {head}")
    trainer = CausalLMTrainer if objective is CAUSAL else MaskedLMTrainer
    return Prepared(tokenizer, partial(trainer, model, processing_class=tokenizer), lines, objective)
