"""``--dry-run``: what a run would be and cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import yaml

from tutorkd.cost import matmul_rate, measure_step, precision, share_of_rate, will_compile
from tutorkd.options.trainer_options import COMMON, REFUSED
from tutorkd.pretraining.fabricated import on_fabricated_rows
from tutorkd.pretraining.memory import device_bytes, in_parts, memory_facts, settings
from tutorkd.settings import resolved
from tutorkd.words import duration

if TYPE_CHECKING:
    from tutorkd.pretraining.adapt_arguments import Adaptation
    from tutorkd.pretraining.distill_arguments import Distillation
    from tutorkd.pretraining.run import Prepared

_SHOWN = COMMON.keys() - {"use_cpu"}  # which the machine decides
_NOT_OF_A_RECIPE = {"dry_run", "restart", "hub_token", *REFUSED}


def plan(options: Adaptation | Distillation, prepared: Prepared) -> str:
    """The recipe, which the command takes again, sizes, tokens a step, steps, operations and peak memory, in lines."""
    text, config = options.text, options.config
    values = resolved(options.arguments, _SHOWN)
    recipe = {key: value for key, value in values.items() if key not in _NOT_OF_A_RECIPE and value != []}
    rows = None  # of a pass over the text, where it is needed and known
    if config.max_steps <= 0 or prepared.asking is not None:
        rows = text.expected_rows(prepared.tokenizer, prepared.objective, prepared.texts)
    with on_fabricated_rows(prepared.make, prepared.tokenizer, config, prepared.beside) as trainer:
        cost, compiled = measure_step(trainer, text.max_length), will_compile(trainer.args)
    rate, low, high = matmul_rate(precision(config), config.device)
    share = share_of_rate(config.device, compiled)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    seconds = cost.flops / (share * rate)
    ways, there = settings(trainer, cost), device_bytes(config.device)
    if ways[0].peak_bytes > there and (parts := in_parts(config, cost, there)):
        ways.insert(1, parts)
    steps = config.max_steps
    if steps > 0:
        told, total = f"{steps:,}", f"all of them {duration(seconds * steps)}"
    else:
        passes = f"{config.num_train_epochs:g} pass{'es' * (config.num_train_epochs != 1)} over the text"
        if rows is None:  # how many tokens the text has isn't known before it is read
            told, total = passes, f"{3600 * cost.tokens / seconds / 1e6:,.2f} M tokens an hour"
        else:
            a_pass = max(1, round(rows * text.max_length / cost.tokens))
            steps = math.ceil(a_pass * config.num_train_epochs)
            told, total = f"about {steps:,}, {passes}", f"all of them {duration(seconds * steps)}"
    saved = sum(p.numel() for p in trainer.saved_model.parameters())
    facts = {
        "trained parameters": f"{trained / 1e6:,.1f} M; the saved model has {saved / 1e6:,.1f} M",
        "tokens a step": f"{cost.tokens:,}",
        "steps": told,
        "operations a step": f"{cost.flops / 1e12:.3g} TFLOP, {cost.flops / cost.tokens / 1e6:,.0f} MFLOP a token",
        **memory_facts(ways, there),
        "time": f"{seconds:.3f} s a {'compiled ' * compiled}step at {share:.0%} of this machine's "
        f"{rate / 1e9:,.0f} GFLOP/s (a median, quartiles {low / 1e9:,.0f} and {high / 1e9:,.0f}), {total}",
    }
    if prepared.asking is not None:
        facts["before the steps"] = _told_asking(prepared.asking, rows and rows * text.max_length, share * rate)
    if steps > 0 and (note := prepared.few_steps(steps)):
        facts["few steps"] = note
    if names := text.not_looked_up():
        facts["not looked up"] = f"{', '.join(names)}: not a file or folder, so taken for a data set of the Hub"
    written = yaml.safe_dump(recipe, sort_keys=False).rstrip()
    return "\n".join(["", "# resolved recipe", written, "", *(f"{name:<20} {fact}" for name, fact in facts.items())])


def _told_asking(asking: Callable[[float], tuple[float, float]], tokens: float | None, rate: float) -> str:
    """What asking a teacher about a text takes, of so many tokens where that is known, at a rate in operations/s."""
    flops, size = asking(tokens or 1e6)
    of = "each million tokens" if tokens is None else f"all {tokens / 1e6:,.3g} M tokens"
    return (
        f"the teacher is asked about {of}, unless that was done before: about {flops / 1e12:,.3g} TFLOP, "
        f"{duration(flops / rate)}, and {size / 1e9:,.3g} GB of the cache"
    )
