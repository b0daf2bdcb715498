"""The tutor: who it is, how it acts, and what it learns from, in masked and in causal models alike.

Its state is the teacher's last hidden state about a position, its action the token that it puts there.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tutorkd import functional
from tutorkd.errors import UserError
from tutorkd.functional import Count
from tutorkd.gradients import GradientPart
from tutorkd.reader import Head
from tutorkd.row_ids import special_ids
from tutorkd.sampling import cut_to_top_k, sample_replacements, without
from tutorkd.step import LOSS_AXIS, Figure, Term
from tutorkd.teacher import Teacher

POLICY = Figure("loss_policy", "L_pol", LOSS_AXIS)
PLAUSIBILITY = Figure("loss_plausibility", "L_kl", LOSS_AXIS)
REWARD_TEACHER = Figure("reward_teacher", "R_T", "mean reward")
REWARD_STUDENT = Figure("reward_student", "R_S", "mean reward")
SHARE_ORIGINAL = Figure("share_original", "x'=x", "share of x' = x, 0 to 1")
SHARE_RATIO_1 = Figure("share_ratio_1", "ratio=1", "share of ratios at 1, 0 to 1")
TUTOR_ENTROPY = Figure("tutor_entropy", "H(tutor)", "tutor's entropy, nats")
FIGURES = (POLICY, PLAUSIBILITY, REWARD_TEACHER, REWARD_STUDENT, SHARE_ORIGINAL, SHARE_RATIO_1, TUTOR_ENTROPY)


@dataclass(kw_only=True)  # the first argument of TutorKDConfig is the folder, as that of TrainingArguments is
class TutorSettings:
    """What is asked of a tutor; defaults are the paper's (authors' released code), but for ``tutor_init``."""

    policy_weight: float = field(default=1.0, metadata={"help": "Weight of the tutor's policy loss L_pol."})
    plausibility_weight: float = field(
        default=1.0, metadata={"help": "Weight of L_kl, which keeps the tutor near the teacher."}
    )
    tutor_max_grad_norm: float = field(
        default=1.0,
        metadata={
            "help": "Norm to which the tutor's gradient is clipped, separately from the student's; 0: no clipping."
        },
    )
    tutor_init: Literal["teacher", "random"] = field(
        default="teacher",
        metadata={"help": "How the tutor's head starts: as the teacher's, or at random as in the paper."},
    )
    sampling: Literal["multinomial", "greedy", "top-k"] = field(
        default="multinomial", metadata={"help": "How the tutor draws its tokens."}
    )
    top_k: int = field(default=10, metadata={"help": "Number of tokens that --sampling top-k chooses from."})
    tutor: Literal["learned", "teacher", "uniform", "none"] = field(
        default="learned",
        metadata={"help": "What replaces tokens: a learned tutor, the teacher's distribution, chance, or nothing."},
    )
    rewards: Literal["both", "teacher", "student", "none"] = field(
        default="both", metadata={"help": "Rewards of the tutor: from teacher and student, from one of them, or none."}
    )


class Action(NamedTuple):
    """What a tutor did at the positions M."""

    replaced_ids: Tensor  # (k,), x'
    tutor_logits: Tensor | None  # (k, V), where a tutor learns; lowest at the forbidden tokens
    policy_logits: Tensor | None  # (k, V), what is drawn from: with top-k sampling, lowest at all but the candidates


def make_tutor(teacher: Teacher, forbidden_ids: list[int], settings: TutorSettings) -> Head | None:
    """The head of a tutor that learns, in float32.

    Args:
        forbidden_ids: tokens that are never drawn.

    Raises:
        UserError: if there are not as many tokens as ``settings.top_k``.
    """
    drawable = teacher.config.vocab_size - len(set(forbidden_ids))
    if not 1 <= settings.top_k <= drawable:
        raise UserError(f"top_k can't be {settings.top_k}: choose from 1 to the {drawable} tokens that can be drawn")
    if settings.tutor != "learned":
        return None
    tutor = teacher.copy_of_head().float().requires_grad_(True)
    if settings.tutor_init == "random":
        tutor.reset_parameters()
    return tutor


def not_text(tokenizer: PreTrainedTokenizerBase, teacher: Teacher) -> list[int]:
    """Ids that a tutor never draws: special tokens, and those beyond the tokenizer's, rising."""
    beyond = range(len(tokenizer), teacher.config.vocab_size)  # vocabularies are padded to round numbers
    return sorted({*special_ids(tokenizer), *beyond})


def act(
    settings: TutorSettings,
    tutor: Head | None,
    features: Tensor,
    teacher_logits: Tensor,
    forbidden_ids: Tensor,
    untouched_ids: Tensor,
) -> Action:
    """Replace the tokens at the positions M.

    Args:
        features: (k, d), the teacher's last hidden states about them.
        teacher_logits: (k, V), the teacher's logits about them.
        forbidden_ids: (n,), tokens that are never drawn.
        untouched_ids: (k,), what stands there where nobody replaces.
    """
    if tutor is not None:
        tutor_logits = without(tutor(features.float()).float(), forbidden_ids)
        policy_logits = _policy(settings, tutor_logits)
        return Action(_draw(settings, policy_logits), tutor_logits, policy_logits)
    if settings.tutor == "teacher":
        replaced_ids = _draw(settings, _policy(settings, without(teacher_logits, forbidden_ids)))
    elif settings.tutor == "uniform":
        replaced_ids = sample_replacements(without(torch.zeros_like(teacher_logits), forbidden_ids))
    else:
        replaced_ids = untouched_ids
    return Action(replaced_ids, None, None)


def _policy(settings: TutorSettings, logits: Tensor) -> Tensor:
    return cut_to_top_k(logits, settings.top_k) if settings.sampling == "top-k" else logits


def _draw(settings: TutorSettings, policy_logits: Tensor) -> Tensor:
    return sample_replacements(policy_logits, greedy=settings.sampling == "greedy")


def tutor_losses(
    settings: TutorSettings,
    action: Action,
    teacher_logits: Tensor,
    forbidden_ids: Tensor,
    reward_teacher: Tensor,
    reward_student: Tensor,
    baseline: bool,
    masked: Count,
    weights: Tensor,
) -> list[Term]:
    """L_pol and L_kl; nothing where no tutor learns.

    Args:
        teacher_logits: (k, V), as for ``act``.
        reward_teacher, reward_student: (k,).
        baseline: whether the others' mean reward is subtracted.
        masked: positions M in the whole batch.
        weights: (k,), 1, or 0 at positions that only fill up their number.
    """
    if action.policy_logits is None or action.tutor_logits is None:
        return []
    reward = {
        "both": reward_teacher + reward_student,
        "teacher": reward_teacher,
        "student": reward_student,
        "none": torch.zeros_like(reward_teacher),
    }[settings.rewards]
    if baseline:
        reward = functional.advantage(reward, weights)
    # Before the cut to the likeliest: tokens that fell out of the candidates would never be pulled back in.
    prior = without(teacher_logits, forbidden_ids)
    policy = functional.policy_loss(action.policy_logits, action.replaced_ids, reward * weights, masked)
    plausibility = functional.plausibility_loss(action.tutor_logits, prior, masked, weights)
    return [
        Term(POLICY, settings.policy_weight, policy),
        Term(PLAUSIBILITY, settings.plausibility_weight, plausibility),
    ]


def tutor_figures(
    action: Action,
    original_ids: Tensor,
    ratio: Tensor,
    reward_teacher: Tensor,
    reward_student: Tensor,
    masked: Count,
    weights: Tensor,
) -> dict[str, Tensor]:
    """What the log says of the tutor, means over M: rewards, shares and entropy; (k,) each but ``masked``."""
    figures = {
        REWARD_TEACHER.name: reward_teacher,
        REWARD_STUDENT.name: reward_student,
        SHARE_ORIGINAL.name: (action.replaced_ids == original_ids).float(),
        SHARE_RATIO_1.name: (ratio == 1).float(),
    }
    if action.policy_logits is not None:
        figures[TUTOR_ENTROPY.name] = functional.policy_entropy(action.policy_logits)
    sums = (torch.stack(list(figures.values())) * weights).sum(-1)
    return dict(zip(figures, functional.mean_over(sums, len(weights), masked), strict=True))


def gradient_parts(module: Any) -> list[GradientPart]:
    """The tutor's gradient apart from the student's: a spike of one doesn't shrink the other's step.

    Args:
        module: has a ``tutor``, which may be None, and its settings as ``args``.
    """
    if module.tutor is None:
        return []
    norm = Figure("grad_norm_tutor", "|g_G|")
    return [GradientPart(norm, list(module.tutor.parameters()), module.args.tutor_max_grad_norm)]
