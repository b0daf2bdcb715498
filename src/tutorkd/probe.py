"""What held-out text tells.

The probe: does the student's modified logit know what the teacher knows, on text held out?

Mask predictions say nothing about a student that has no MLM head. Its own question does: the teacher's distribution
fills the masked positions of held-out rows, and the student is asked which tokens are still the original ones.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from tutorkd.batch import Batch
from tutorkd.reader import Reader
from tutorkd.step import LOSS as TRAINING_LOSS
from tutorkd.step import Figure, spread

IGNORED = -100.0  # marks positions that are not asked about
# Trainer puts "eval_" before the names that the functions below give.
LOSS = Figure("eval_loss", "held-out loss", "loss on held-out rows", "less is better")
# Figures that sum all losses of a method, and so say nothing beside another method's.
SUMS = (TRAINING_LOSS.name, LOSS.name)
AUC = Figure(
    "eval_probe_auc",
    "probe AUC",
    "probe AUC, 0.5 to 1",
    "0.5 is guessing which tokens were replaced, 1 is always right",
)
CORRELATION = Figure(
    "eval_probe_correlation",
    "probe corr.",
    "probe correlation, -1 to 1",
    "0 is guessing what the teacher thinks of a token, 1 is the teacher itself",
)
ACCURACY = Figure("eval_accuracy", "accuracy")
PERPLEXITY = Figure("eval_perplexity", "perplexity", scale="1 is being sure of each token, less is better")
KL_TO_TEACHER = Figure(
    "eval_kl_to_teacher",
    "KL(T||S)",
    "KL(T || S) on held-out rows, nats",
    "0 is the teacher itself, less is better",
)
VECTOR_COSINE = Figure(
    "eval_cosine",
    "cosine",
    "mean cosine to the teacher on held-out texts, -1 to 1",
    "1 is the teacher itself, more is better",
)
# All that a look at held-out rows may give.
FIGURES = (LOSS, AUC, CORRELATION, ACCURACY, PERPLEXITY, KL_TO_TEACHER, VECTOR_COSINE)

# By number format: what a teacher names of the tokens of held-out rows, in 8 bits and before it was rounded.
TEACHER_ACCURACY = {
    "int8": Figure("teacher_accuracy_int8", "held-out tokens right: int8 teacher"),
    **{name: Figure(f"teacher_accuracy_{name}", f"in {name}") for name in ("float32", "bfloat16")},
}


class HeldOut(NamedTuple):
    """What held-out rows are judged by in the place of the loss."""

    # Of module, batch, teacher and generator: tensors at the positions that the objective asks about.
    look: Callable[..., tuple[Tensor, ...]]
    metrics: Callable[[EvalPrediction], dict[str, float]]  # of all that was looked at, spread over the rows
    figures: tuple[Figure, ...]


def probe_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Figures of the probe.

    Args:
        prediction: ``predictions`` (rows, L), the student's a^S; ``label_ids`` a pair of (rows, L), the teacher's a^T
            and whether the token is the original (1 or 0); ``IGNORED`` where nothing was asked.

    Returns:
        probe_auc: area under the ROC curve of a^S telling original from replaced tokens.
        probe_correlation: Pearson's correlation of a^S with a^T.
        A figure is left out where it isn't defined (one class only, or no spread).
    """
    from scipy.stats import pearsonr  # these two take a second, which whoever asks for help alone shouldn't wait for
    from sklearn.metrics import roc_auc_score

    target, original = (np.asarray(values) for values in prediction.label_ids)
    asked = original != IGNORED
    answer, target, original = np.asarray(prediction.predictions)[asked], target[asked], original[asked]
    metrics: dict[str, float] = {}
    if not np.isfinite(answer).all():  # the run has diverged, which the trainer tells
        return metrics
    if len(np.unique(original)) == 2:
        metrics["probe_auc"] = float(roc_auc_score(original, answer))
    if len(answer) > 1 and np.ptp(answer) > 0 and np.ptp(target) > 0:
        metrics["probe_correlation"] = float(pearsonr(answer, target).statistic)
    return metrics


def mlm_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Mean cross-entropy in nats, its exponential, and accuracy at masked positions.

    Args:
        prediction: ``predictions`` (rows, L) cross-entropies, ``label_ids`` (rows, L) whether the token was named;
            ``IGNORED`` where nothing was masked.
    """
    (named,) = prediction.label_ids
    asked = named != IGNORED
    if not asked.any():
        return {}
    loss = float(np.asarray(prediction.predictions)[asked].mean())
    return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "accuracy": float(named[asked].mean())}


def causal_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Perplexity of the text and, where there was a teacher, the mean KL divergence from it in nats.

    Args:
        prediction: ``predictions`` (rows, L) cross-entropies; ``label_ids`` none, or (rows, L) divergences; ``IGNORED``
            where nothing was asked.
    """
    losses = np.asarray(prediction.predictions)
    asked = losses != IGNORED
    if not asked.any():
        return {}
    loss = float(losses[asked].mean())
    metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
    if prediction.label_ids:
        (divergences,) = (np.asarray(values) for values in prediction.label_ids)
        metrics["kl_to_teacher"] = float(divergences[asked].mean())
    return metrics


@torch.no_grad()
def accuracy(
    reader: Reader, batches: Iterable[Batch], gather: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
) -> float | None:
    """Share of the tokens asked about that a language model names; None where none is.

    Args:
        batches: on the reader's device.
        gather: of tensors (B,), a number a row of this process's batch, those of all processes.
    """
    named = asked = 0.0
    for batch in batches:
        positions = reader.objective.asked(batch)
        ids, real = (each.flatten()[positions] for each in (batch.input_ids, batch.mask))
        right = reader(batch.corrupted_ids, batch.attention_mask, positions=positions).logits.argmax(-1) == ids
        counted = (right * real).float(), real.float()
        rows = gather(tuple(spread(each, positions, batch.input_ids, 0.0).sum(-1) for each in counted))
        named, asked = named + float(rows[0].sum()), asked + float(rows[1].sum())
    return named / asked if asked else None
