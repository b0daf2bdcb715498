"""A model into a teacher, by training on the user's text."""

from functools import partial
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tutorkd.errors import UserError
from tutorkd.hub import load_config, load_model, load_tokenizer, loading, quiet_transformers
from tutorkd.kinds import check_one_stack, objective_of_config
from tutorkd.methods.pair import check_tokenizer
from tutorkd.objective import CAUSAL, Objective
from tutorkd.positions import check_positions
from tutorkd.pretraining.adapt_arguments import AdaptArguments, Adaptation
from tutorkd.pretraining.run import Prepared, run_training
from tutorkd.trainer import CausalLMTrainer, MaskedLMTrainer


def adapt(options: Adaptation) -> Path:
    """Train the teacher, or print the plan; returns its folder.

    Raises:
        Interrupted: if a signal stopped the run.
        UserError: if model, text or settings can't be used.
    """
    args = options.args
    if not args.model and not args.config_name:
        raise UserError(
            "no model: name the model to adapt with --model, or with --config_name the configuration of a model that "
            "starts at random"
        )
    if args.model and args.config_name:
        raise UserError(
            "--config_name is for a model that starts at random, but a checkpoint has its own configuration: leave "
            "out --config_name or --model"
        )
    if not args.model and not args.tokenizer_name:
        raise UserError(
            f"no tokenizer: a model that starts at random has none of its own; name one with --tokenizer_name, such as "
            f"--tokenizer_name {args.config_name} if there is one beside the configuration"
        )
    return run_training(options, lambda _: _prepare(options))


def _prepare(options: Adaptation) -> Prepared:
    args, text = options.args, options.text
    name, role = (args.model, "model") if args.model else (str(args.config_name), "configuration")
    config = load_config(name, role, args.trust_remote_code)
    check_one_stack(config, name, role, needed=("vocab_size", "num_hidden_layers"))
    objective = objective_of_config(config)
    of_tokenizer = (args.tokenizer_name, "tokenizer") if args.tokenizer_name else (args.model, "model")
    tokenizer = load_tokenizer(*of_tokenizer, args.trust_remote_code, objective.special_tokens)
    lines = text.check(tokenizer, objective)
    set_seed(options.config.seed)  # a head that isn't there starts at random
    if args.model:
        model, start = _checkpoint(args, tokenizer, objective)
    else:
        model, start = _at_random(args, config, tokenizer, objective)
    check_positions(model, role, text.max_length)
    lines.append(f"model    {name}: {model.num_parameters() / 1e6:.1f} M parameters, {start}")
    trainer = CausalLMTrainer if objective is CAUSAL else MaskedLMTrainer
    make = partial(trainer, model, processing_class=tokenizer)
    start_said = {} if args.model else {"start": "random weights"}
    return Prepared(tokenizer, make, lines, objective, beside=text.beside, start=start_said)


def _checkpoint(
    args: AdaptArguments, tokenizer: PreTrainedTokenizerBase, objective: Objective
) -> tuple[PreTrainedModel, str]:
    """The model to adapt, which knows all tokens of the tokenizer, and how it starts.

    Raises:
        UserError: if it can't be loaded, or gives the tokenizer's ids another meaning.
    """
    if args.tokenizer_name:
        try:
            check_tokenizer("model", args.model, tokenizer, True, args.trust_remote_code, objective)
        except UserError as error:
            instead = f"to use this tokenizer, start at random, with --config_name {args.model} instead of --model"
            raise UserError(f"{error}; {instead}") from error
    model, missing = load_model(objective.model_class, args.model, "model", trust_remote_code=args.trust_remote_code)
    start = f"its {objective.head} " + ("starts at random" if missing else "starts as the checkpoint's")
    if (new := _tokens(tokenizer) - model.config.vocab_size) > 0:
        with quiet_transformers():
            model.resize_token_embeddings(_tokens(tokenizer))
        start += f", {new:,} token{'s' * (new > 1)} new to it start{'s' * (new == 1)} near the mean of the others"
    return model, start


def _at_random(
    args: AdaptArguments, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, objective: Objective
) -> tuple[PreTrainedModel, str]:
    """A model of this configuration, but for the tokenizer's tokens, and how it starts.

    Raises:
        UserError: if there is no such language model.
    """
    with loading(str(args.config_name), "configuration"):
        vars(config).pop("quantization_config", None)  # of weights that aren't loaded
        config.vocab_size = _tokens(tokenizer)
        for token in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
            if hasattr(config, f"{token}_id"):
                setattr(config, f"{token}_id", getattr(tokenizer, f"{token}_id"))
        model = objective.model_class.from_config(config, dtype=torch.float32, trust_remote_code=args.trust_remote_code)
    model.config.name_or_path = ""  # nothing of that checkpoint's is in it
    return model, f"{config.model_type} of {config.vocab_size:,} tokens, starts at random"


def _tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many ids there are, with those that stand for no token."""
    return 1 + max(tokenizer.get_vocab().values())
