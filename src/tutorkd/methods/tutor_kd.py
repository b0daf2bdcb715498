"""Tutor-KD: what is trained, and one training step from top to bottom.

Reference: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor
Network", EMNLP 2022 (doi 10.18653/v1/2022.emnlp-main.498). Each formula is in ``tutorkd.functional``.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.capture import prepare_for_capture
from tutorkd.errors import UserError
from tutorkd.gradients import GradientPart
from tutorkd.methods.internal import (
    ATTENTION_SCORE,
    HIDDEN_STATE,
    Projection,
    matched_layers,
    summed_attention_score_loss,
    summed_hidden_state_loss,
)
from tutorkd.methods.pair import check_layers, check_vocabulary
from tutorkd.methods.soft_targets import SOFT_CROSS_ENTROPY, check_mlm_head, soft_cross_entropy
from tutorkd.probe import AUC, CORRELATION, HeldOut, probe_metrics
from tutorkd.reader import Ask, Head, Reader, Reading
from tutorkd.sampling import likeliest, sample_replacements, without
from tutorkd.step import LOSS_AXIS, Figure, StepOutput, at_positions, spread
from tutorkd.teacher import Teacher

CITATION = """\
@inproceedings{kim-etal-2022-tutoring,
  title = {Tutoring Helps Students Learn Better: Improving Knowledge Distillation for {BERT} with Tutor Network},
  author = {Kim, Junho and Park, Jun-Hyung and Lee, Mingyu and Mok, Wing-Lam and Choi, Joon-Young and Lee, SangKeun},
  booktitle = {Proceedings of the 2022 Conference on Empirical Methods in Natural Language Processing},
  year = {2022},
  pages = {7371--7382},
  doi = {10.18653/v1/2022.emnlp-main.498}
}"""


MODIFIED_LOGIT = Figure("loss_modified_logit", "L_mod", LOSS_AXIS)
POLICY = Figure("loss_policy", "L_pol", LOSS_AXIS)
PLAUSIBILITY = Figure("loss_plausibility", "L_kl", LOSS_AXIS)
REWARD_TEACHER = Figure("reward_teacher", "R_T", "mean reward")
REWARD_STUDENT = Figure("reward_student", "R_S", "mean reward")
SHARE_ORIGINAL = Figure("share_original", "x'=x", "share of x' = x, 0 to 1")
SHARE_RATIO_1 = Figure("share_ratio_1", "ratio=1", "share of ratios at 1, 0 to 1")
TUTOR_ENTROPY = Figure("tutor_entropy", "H(tutor)", "tutor's entropy, nats")
FIGURES = (
    *(MODIFIED_LOGIT, HIDDEN_STATE, ATTENTION_SCORE, POLICY, PLAUSIBILITY, SOFT_CROSS_ENTROPY),
    *(REWARD_TEACHER, REWARD_STUDENT, SHARE_ORIGINAL, SHARE_RATIO_1, TUTOR_ENTROPY),
)


@dataclass
class TutorKDSettings:
    """Tutor-KD's constants; defaults are the paper's (authors' released code), but for ``tutor_init``."""

    _argument_group_name = "method: Tutor-KD"

    target: Literal["modified-logit", "mlm-logits"] = field(
        default="modified-logit",
        metadata={
            "help": "What the student learns at the tutor's tokens: the modified logit, or in its place (the paper's "
            "ablation) the teacher's MLM distribution, for which the student gets an MLM head."
        },
    )
    modified_logit_weight: float = field(default=25.0, metadata={"help": "Weight of L_mod."})
    mlm_logit_weight: float = field(
        default=1.0, metadata={"help": "Weight of the soft cross-entropy, temperature 1, of --target mlm-logits."}
    )
    hidden_state_weight: float = field(default=0.5, metadata={"help": "Weight of L_hid; 0 turns it off."})
    attention_score_weight: float = field(
        default=0.5, metadata={"help": "Weight of L_att; 0 turns it off, as head counts that differ require."}
    )
    policy_weight: float = field(default=1.0, metadata={"help": "Weight of the tutor's policy loss L_pol."})
    plausibility_weight: float = field(
        default=1.0, metadata={"help": "Weight of L_kl, which keeps the tutor near the teacher's distribution."}
    )
    tutor_max_grad_norm: float = field(
        default=1.0,
        metadata={
            "help": "Norm to which the tutor's gradient is clipped, apart from the student's (--max_grad_norm); 0 "
            "leaves it as it is."
        },
    )
    tutor_init: Literal["teacher", "random"] = field(
        default="teacher",
        metadata={"help": "Start of the tutor's head: a copy of the teacher's MLM head, or random as in the paper."},
    )
    sampling: Literal["multinomial", "greedy", "top-k"] = field(
        default="multinomial", metadata={"help": "How the tutor draws replacements: multinomial, greedy or top-k."}
    )
    top_k: int = field(default=10, metadata={"help": "Candidate tokens of --sampling top-k."})
    tutor: Literal["learned", "teacher", "uniform", "none"] = field(
        default="learned",
        metadata={
            "help": "Who replaces the masked tokens: the learned tutor, the teacher's own MLM distribution, tokens "
            "drawn evenly, or nobody (the student reads the masked row)."
        },
    )
    rewards: Literal["both", "teacher", "student", "none"] = field(
        default="both", metadata={"help": "Rewards of the tutor: from teacher and student, from one, or none."}
    )
    reward_baseline: Literal["none", "mean"] = field(
        default="none",
        metadata={
            "help": "What is subtracted from a reward: nothing, as in the paper, or the mean reward of the other "
            "masked positions of the micro-batch, which cuts the gradient's variance."
        },
    )

    @property
    def needs_mlm_head(self) -> bool:
        """Whether the student is a masked language model, not a bare encoder."""
        return self.target == "mlm-logits"


class ModifiedLogitHead(nn.Module):
    """The student's answer f(h): dense, GELU, LayerNorm, linear to one number; (B, L, d) -> (B, L) logits."""

    def __init__(self, hidden_size: int, initializer_range: float):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size)
        self.classifier = nn.Linear(hidden_size, 1)
        for linear in (self.dense, self.classifier):
            nn.init.normal_(linear.weight, std=initializer_range)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.LayerNorm(F.gelu(self.dense(hidden)))).squeeze(-1)


class Lesson(NamedTuple):
    """What one batch went through."""

    teacher_logits: Tensor  # (k, V), reading X^M
    tutor_logits: Tensor | None  # (k, V), where a tutor learns; lowest at the forbidden tokens
    policy_logits: Tensor | None  # (k, V), what is drawn from: with top-k sampling, lowest at all but the candidates
    replaced_ids: Tensor  # (k,), x'
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
    accepts_loss_kwargs = True  # tells Trainer that the loss is a mean over the whole accumulated batch

    def __init__(self, student: PreTrainedModel, teacher: Teacher, forbidden_ids: list[int], settings: TutorKDSettings):
        super().__init__()
        check_vocabulary(student, teacher)
        check_layers(student, teacher, settings.attention_score_weight)
        drawable = teacher.config.vocab_size - len(set(forbidden_ids))
        if not 1 <= settings.top_k <= drawable:
            raise UserError(
                f"top_k can't be {settings.top_k}: choose from 1 to the {drawable} tokens that can be drawn"
            )
        if settings.needs_mlm_head:
            check_mlm_head("tutor-kd with --target mlm-logits", student)
        prepare_for_capture(cast(PreTrainedModel, student.base_model), "student")
        self.student = student
        self.reader = Reader(student)
        self.args = settings
        self.tutor: Head | None = None
        if settings.tutor == "learned":
            self.tutor = teacher.copy_of_head().float().requires_grad_(True)
            if settings.tutor_init == "random":
                self.tutor.reset_parameters()
        scores = settings.attention_score_weight != 0
        learned, taught = matched_layers(student, teacher, settings.hidden_state_weight != 0, scores)
        if not settings.needs_mlm_head:
            initializer_range = getattr(student.config, "initializer_range", 0.02)
            self.modified_logit_head = ModifiedLogitHead(student.config.hidden_size, initializer_range)
            learned = learned._replace(hidden=learned.hidden or [student.config.num_hidden_layers])  # the head reads it
        self.asked_of_student, self.asked_of_teacher = learned, taught
        self.projection = Projection(student, teacher)
        self.register_buffer("forbidden_ids", torch.tensor(forbidden_ids, dtype=torch.long), persistent=False)

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X, X^M and M."""
        c = self.args
        masked, real, pairs = batch.counts
        lesson = self.teach(batch, teacher)

        # 5. All losses, for one backward pass: policy and plausibility reach the tutor, the others the student.
        mask, weights = batch.mask, batch.position_weights
        if c.target == "mlm-logits":
            soft = soft_cross_entropy(lesson.student_logits, lesson.taught.logits, 1.0, masked, weights)
            losses = {SOFT_CROSS_ENTROPY.name: soft}
        else:
            target = spread(lesson.ratio, batch.masked_positions, like=batch.input_ids, elsewhere=1.0)
            losses = {MODIFIED_LOGIT.name: functional.modified_logit_loss(lesson.student_logits, target, mask, real)}
        if lesson.policy_logits is not None and lesson.tutor_logits is not None:
            reward = {
                "both": lesson.reward_teacher + lesson.reward_student,
                "teacher": lesson.reward_teacher,
                "student": lesson.reward_student,
                "none": torch.zeros_like(lesson.reward_teacher),
            }[c.rewards]
            if c.reward_baseline == "mean":
                reward = functional.advantage(reward, weights)
            losses[POLICY.name] = functional.policy_loss(
                lesson.policy_logits, lesson.replaced_ids, reward * weights, masked
            )
            # Before the cut to the likeliest: tokens that fell out of the candidates would never be pulled back in.
            prior = without(lesson.teacher_logits, self.forbidden_ids)
            losses[PLAUSIBILITY.name] = functional.plausibility_loss(lesson.tutor_logits, prior, masked, weights)
        coefficients = {
            MODIFIED_LOGIT.name: c.modified_logit_weight,
            SOFT_CROSS_ENTROPY.name: c.mlm_logit_weight,
            POLICY.name: c.policy_weight,
            PLAUSIBILITY.name: c.plausibility_weight,
            HIDDEN_STATE.name: c.hidden_state_weight,
            ATTENTION_SCORE.name: c.attention_score_weight,
        }
        learned, taught = lesson.learned, lesson.taught
        if c.hidden_state_weight:
            losses[HIDDEN_STATE.name] = summed_hidden_state_loss(self.projection, learned, taught, mask, real)
        if c.attention_score_weight:
            losses[ATTENTION_SCORE.name] = summed_attention_score_loss(learned, taught, mask, real, pairs)
        loss = torch.stack([coefficients[name] * value for name, value in losses.items()]).sum()

        figures = {
            REWARD_TEACHER.name: lesson.reward_teacher,
            REWARD_STUDENT.name: lesson.reward_student,
            SHARE_ORIGINAL.name: (lesson.replaced_ids == batch.original_ids).float(),
            SHARE_RATIO_1.name: (lesson.ratio == 1).float(),
        }
        if lesson.policy_logits is not None:
            figures[TUTOR_ENTROPY.name] = functional.policy_entropy(lesson.policy_logits)
        sums = (torch.stack(list(figures.values())) * weights).sum(-1)
        means = dict(zip(figures, functional.mean_over(sums, len(weights), masked), strict=True))
        return StepOutput(loss, {name: value.detach() for name, value in losses.items()} | means)

    def teach(self, batch: Batch, teacher: Teacher) -> Lesson:
        """The reading and writing part of a step, up to the rewards."""
        original_ids, positions = batch.original_ids, batch.masked_positions

        # 1. The teacher reads X^M.
        masked = teacher(batch.corrupted_ids, batch.attention_mask, positions=positions)
        teacher_logits = masked.logits

        # 2. The tutor replaces the masked tokens, which gives X'.
        tutor_logits = policy_logits = None
        if self.tutor is not None:
            tutor_logits = without(self.tutor(masked.features.float()).float(), self.forbidden_ids)
            policy_logits, replaced_ids = self._act(tutor_logits)
        elif self.args.tutor == "teacher":
            _, replaced_ids = self._act(without(teacher_logits, self.forbidden_ids))
        elif self.args.tutor == "uniform":
            replaced_ids = sample_replacements(without(torch.zeros_like(teacher_logits), self.forbidden_ids))
        else:
            replaced_ids = batch.corrupted_ids.flatten()[positions]
        replaced_ids = torch.where(batch.position_weights > 0, replaced_ids, original_ids)
        tutored_ids = batch.with_tokens(replaced_ids)

        # 3. The teacher reads X'.
        taught = teacher(tutored_ids, batch.attention_mask, self.asked_of_teacher, positions)

        # 4. The student reads X'.
        learned = self.reader(
            tutored_ids, batch.attention_mask, self.asked_of_student, positions if self.args.needs_mlm_head else None
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
            tutor_logits,
            policy_logits,
            replaced_ids,
            ratio,
            student_logits,
            functional.teacher_reward(taught.logits, original_ids, replaced_ids),
            reward_student,
            taught,
            learned,
        )

    def _act(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The policy that the setting makes of logits, (k, V) each, and what it chose, (k,)."""
        policy = likeliest(logits, self.args.top_k) if self.args.sampling == "top-k" else logits
        return policy, sample_replacements(policy, greedy=self.args.sampling == "greedy")

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
    beyond = range(len(tokenizer), teacher.config.vocab_size)  # vocabularies are padded to round numbers
    return TutorKD(student, teacher, sorted({*tokenizer.all_special_ids, *beyond}), settings)


def gradient_parts(module: TutorKD) -> list[GradientPart]:
    """The tutor's gradient apart from the student's: a spike of one doesn't shrink the other's step."""
    if module.tutor is None:
        return []
    norm = Figure("grad_norm_tutor", "|g_G|")
    return [GradientPart(norm, list(module.tutor.parameters()), module.args.tutor_max_grad_norm)]


def held_out(settings: TutorKDSettings) -> HeldOut | None:
    """The probe, where the student has a modified logit to be asked for."""
    if settings.target != "modified-logit":
        return None
    return HeldOut(TutorKD.answer, probe_metrics, (AUC, CORRELATION))
