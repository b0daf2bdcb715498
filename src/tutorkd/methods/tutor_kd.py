"""Tutor-KD: what is trained, and one training step from top to bottom.

Reference: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor
Network", EMNLP 2022 (doi 10.18653/v1/2022.emnlp-main.498). Each formula is in ``tutorkd.functional``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.layer_weights import RelationSettings
from tutorkd.methods import internal
from tutorkd.methods.internal import Projection, internal_losses, matched_layers
from tutorkd.methods.modified_logit import MODIFIED_LOGIT, ModifiedLogitHead
from tutorkd.methods.pair import check_head, check_heads, check_vocabulary
from tutorkd.methods.soft_targets import SOFT_CROSS_ENTROPY, soft_cross_entropy
from tutorkd.methods.tutor import (
    PLAUSIBILITY,
    POLICY,
    REWARD_STUDENT,
    REWARD_TEACHER,
    SHARE_ORIGINAL,
    SHARE_RATIO_1,
    TUTOR_ENTROPY,
    Action,
    TutorSettings,
    act,
    make_tutor,
    not_text,
    tutor_figures,
    tutor_losses,
)
from tutorkd.objective import MASKED, Objective
from tutorkd.probe import AUC, CORRELATION, HeldOut, probe_metrics
from tutorkd.reader import Ask, Reader, Reading
from tutorkd.sampling import sample_replacements, without
from tutorkd.step import StepOutput, Term, at_positions, spread, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@inproceedings{kim-etal-2022-tutoring,
  title = {Tutoring Helps Students Learn Better: Improving Knowledge Distillation for {BERT} with Tutor Network},
  author = {Kim, Junho and Park, Jun-Hyung and Lee, Mingyu and Mok, Wing-Lam and Choi, Joon-Young and Lee, SangKeun},
  booktitle = {Proceedings of the 2022 Conference on Empirical Methods in Natural Language Processing},
  year = {2022},
  pages = {7371--7382},
  doi = {10.18653/v1/2022.emnlp-main.498}
}"""


FIGURES = (
    *(MODIFIED_LOGIT, *internal.FIGURES, POLICY, PLAUSIBILITY, SOFT_CROSS_ENTROPY),
    *(REWARD_TEACHER, REWARD_STUDENT, SHARE_ORIGINAL, SHARE_RATIO_1, TUTOR_ENTROPY),
)


@dataclass(kw_only=True)
class TutorKDSettings(RelationSettings, TutorSettings):
    """Tutor-KD's constants; defaults are the paper's (authors' released code), but for ``tutor_init``."""

    _argument_group_name = "method: Tutor-KD"

    target: Literal["modified-logit", "mlm-logits"] = field(
        default="modified-logit",
        metadata={
            "help": "What the student learns at the tutor's tokens: the modified logit or, as in an ablation of the "
            "paper, the teacher's MLM distribution (the student then has an MLM head)."
        },
    )
    modified_logit_weight: float = field(
        default=25.0, metadata={"help": "Weight of L_mod, the loss on modified logits."}
    )
    mlm_logit_weight: float = field(
        default=1.0, metadata={"help": "Weight of the soft cross-entropy of --target mlm-logits."}
    )
    hidden_state_weight: float = field(
        default=0.5, metadata={"help": "Weight of L_hid, the loss on hidden states; 0 turns it off."}
    )
    attention_score_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of L_att, the loss on attention scores; must be 0 if the numbers of heads differ."},
    )
    reward_baseline: Literal["none", "mean"] = field(
        default="none",
        metadata={
            "help": "What is subtracted from each reward: nothing, as in the paper, or the mean reward of the other "
            "masked positions of the micro-batch."
        },
    )

    @property
    def student_head(self) -> Objective | None:
        """What the student needs a head for; by default it is a bare encoder."""
        return MASKED if self.target == "mlm-logits" else None


class Lesson(NamedTuple):
    """What one batch went through."""

    teacher_logits: Tensor  # (k, V), reading X^M
    action: Action  # the tutor's
    ratio: Tensor  # (k,), a^T
    student_logits: Tensor  # (B, L), f(h^S) before the sigmoid; with target mlm-logits (k, V), the MLM's
    reward_teacher: Tensor  # (k,)
    reward_student: Tensor  # (k,)
    taught: Reading  # the teacher's, reading X'
    learned: Reading  # the student's, reading X'


class TutorKD(nn.Module):
    """The trained module: student, tutor's head, modified-logit head and hidden-state projection.

    The frozen teacher is not part of it: it is an argument of the forward pass.

    Args:
        student: an encoder without a head; with target mlm-logits a masked language model.
        teacher: a ``Teacher``.
        forbidden_ids: token ids that are never drawn: special tokens, and ids beyond the tokenizer's.
        settings: weights of the losses, sampling, the tutor's start.

    Raises:
        UserError: if the pair can't be trained together (vocabularies, depths, heads), or there are not as many tokens
            as ``settings.top_k``.
    """

    forbidden_ids: Tensor

    def __init__(self, student: PreTrainedModel, teacher: Teacher, forbidden_ids: list[int], settings: TutorKDSettings):
        super().__init__()
        check_vocabulary(student, teacher)
        check_heads(student, teacher, settings.attention_score_weight)
        if settings.student_head:
            check_head("tutor-kd with --target mlm-logits", student, MASKED)
        self.student = student
        self.reader = Reader(student)
        self.args = settings
        self.tutor = make_tutor(teacher, forbidden_ids, settings)
        learned, taught = matched_layers(student, teacher, settings)
        if not settings.student_head:
            self.modified_logit_head = ModifiedLogitHead(student)
            learned = learned._replace(hidden=learned.hidden or [student.config.num_hidden_layers])  # the head reads it
        self.asked_of_student, self.asked_of_teacher = learned, taught
        self.projection = Projection(student, teacher)
        self.register_buffer("forbidden_ids", torch.tensor(forbidden_ids, dtype=torch.long), persistent=False)

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X, X^M and M."""
        c = self.args
        masked, real, pairs, *_ = batch.counts
        lesson = self.teach(batch, teacher)

        # 5. All losses, for one backward pass: policy and plausibility reach the tutor, the others the student.
        mask, weights = batch.mask, batch.position_weights
        if c.target == "mlm-logits":
            soft = soft_cross_entropy(lesson.student_logits, lesson.taught.logits, 1.0, masked, weights)
            answer = Term(SOFT_CROSS_ENTROPY, c.mlm_logit_weight, soft)
        else:
            target = spread(lesson.ratio, batch.masked_positions, like=batch.input_ids, elsewhere=1.0)
            asked = functional.modified_logit_loss(lesson.student_logits, target, mask, real)
            answer = Term(MODIFIED_LOGIT, c.modified_logit_weight, asked)
        rewards = lesson.reward_teacher, lesson.reward_student
        terms = [
            answer,
            *tutor_losses(
                *(c, lesson.action, lesson.teacher_logits, self.forbidden_ids, *rewards),
                *(c.reward_baseline == "mean", masked, weights),
            ),
            *internal_losses(c, self.projection, lesson.learned, lesson.taught, mask, real, pairs),
        ]
        means = tutor_figures(lesson.action, batch.original_ids, lesson.ratio, *rewards, masked, weights)
        return weighted_sum(terms, means)

    def teach(self, batch: Batch, teacher: Teacher) -> Lesson:
        """The reading and writing part of a step, up to the rewards."""
        original_ids, positions = batch.original_ids, batch.masked_positions

        # 1. The teacher reads X^M.
        masked = teacher(batch.corrupted_ids, batch.attention_mask, positions=positions)
        teacher_logits = masked.logits

        # 2. The tutor replaces the masked tokens, which gives X'.
        masked_ids = batch.corrupted_ids.flatten()[positions]
        action = act(self.args, self.tutor, masked.features, teacher_logits, self.forbidden_ids, masked_ids)
        replaced_ids = torch.where(batch.position_weights > 0, action.replaced_ids, original_ids)
        tutored_ids = batch.with_tokens(replaced_ids)

        # 3. The teacher reads X'.
        taught = teacher(tutored_ids, batch.attention_mask, self.asked_of_teacher, positions)

        # 4. The student reads X'.
        learned = self.reader(
            tutored_ids, batch.attention_mask, self.asked_of_student, positions if self.args.student_head else None
        )
        ratio = functional.modified_logit_target(teacher_logits, original_ids, replaced_ids)
        if self.args.target == "mlm-logits":
            student_logits = learned.logits
            reward_student = functional.mlm_student_reward(taught.logits, student_logits)
        else:
            student_logits = self.modified_logit_head(learned.hidden[-1])
            reward_student = functional.student_reward(ratio, at_positions(student_logits, positions))
        return Lesson(
            teacher_logits,
            action._replace(replaced_ids=replaced_ids),
            ratio,
            student_logits,
            functional.teacher_reward(taught.logits, original_ids, replaced_ids),
            reward_student,
            taught,
            learned,
        )

    @torch.no_grad()
    def answer(self, batch: Batch, teacher: Teacher, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The student's answers at masked positions whose tokens are drawn from the teacher's own distribution.

        The teacher's, not the tutor's: the questions then stay the same while the tutor learns.

        Returns:
            The student's a^S, the teacher's a^T, and 1 where the token drawn is the original, else 0; each (k,).
        """
        original_ids, positions = batch.original_ids, batch.masked_positions
        logits = teacher(batch.corrupted_ids, batch.attention_mask, positions=positions).logits
        replaced_ids = sample_replacements(without(logits, self.forbidden_ids), generator=generator)
        ids = batch.with_tokens(replaced_ids)
        last = Ask(hidden=[self.student.config.num_hidden_layers])
        learned = self.reader(ids, batch.attention_mask, last).hidden[-1]
        answers = at_positions(self.modified_logit_head(learned), positions).float().sigmoid()
        ratio = functional.modified_logit_target(logits, original_ids, replaced_ids)
        return answers, ratio, (replaced_ids == original_ids).float()


def build(
    student: PreTrainedModel, teacher: Teacher, settings: TutorKDSettings, tokenizer: PreTrainedTokenizerBase
) -> TutorKD:
    """A ``TutorKD`` whose tutor draws tokens of text alone."""
    return TutorKD(student, teacher, not_text(tokenizer, teacher), settings)


def held_out(settings: TutorKDSettings) -> HeldOut | None:
    """The probe, where the student has a modified logit to be asked for."""
    if settings.target != "modified-logit":
        return None
    return HeldOut(TutorKD.answer, probe_metrics, (AUC, CORRELATION))
