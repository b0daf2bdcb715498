"""Tutor-KD for causal language models: one training step from top to bottom.

The paper (Kim et al., EMNLP 2022; see ``tutorkd.methods.tutor_kd``) stops at masked models. In a causal model T a
replaced token changes only what comes after it, so rewards look ahead over a window w (``tutorkd.functional``):

1. T reads X: log p_T(x_s | x_<s), hidden states. Positions M, with at least w tokens between them.
2. x'_t ~ pi(. | x_<t) for t in M gives X'; the tutor pi is a head on T's last hidden states.
3. T reads X'. 4. The student S reads X'.
5. R_T,t: how much easier the text behind t has become for T; R_S,t: how far S is from T there. The policy gradient
   subtracts the mean of the others' rewards; L_kl holds pi near p_T(. | x_<t).

    L = L_div + w_mod L_mod + w_hid L_hid + w_att L_att + w_pol L_pol + w_kl L_kl

L_div is the mean over all positions of X' of a divergence of S from T. L_mod asks S's state at t for the modified logit
a_t = min(1, p_T(x'_t | x_<t) / p_T(x_t | x_<t)), in the mean over M. L_hid and L_att are the encoder's; all three are
off by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.errors import UserError
from tutorkd.layer_weights import RelationSettings
from tutorkd.methods import internal
from tutorkd.methods.causal_kd import check_divergence
from tutorkd.methods.internal import (
    Projection,
    internal_losses,
    matched_layers,
)
from tutorkd.methods.modified_logit import MODIFIED_LOGIT, ModifiedLogitHead
from tutorkd.methods.next_token import DIVERGENCE, Asked, DivergenceSettings, Targets, compare
from tutorkd.methods.pair import check_head, check_heads, check_vocabulary
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
from tutorkd.objective import CAUSAL, Objective
from tutorkd.reader import Ask, Reader, Reading
from tutorkd.step import StepOutput, Term, at_positions, spread, weighted_sum
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIGURES = (
    *(DIVERGENCE, MODIFIED_LOGIT, *internal.FIGURES, POLICY, PLAUSIBILITY),
    *(REWARD_TEACHER, REWARD_STUDENT, SHARE_ORIGINAL, SHARE_RATIO_1, TUTOR_ENTROPY),
)


@dataclass
class CausalTutorKDSettings(RelationSettings, TutorSettings, DivergenceSettings):
    """Constants of Tutor-KD for causal models, which have no source but ours."""

    _argument_group_name = "method: Tutor-KD"
    student_head: ClassVar[Objective | None] = CAUSAL

    window: int = field(
        default=8,
        metadata={
            "help": "Number of tokens after a replaced one that its rewards look at; at least as many lie between two "
            "replaced ones."
        },
    )
    replaced_share: float = field(
        default=0.05, metadata={"help": "Share of the tokens that the tutor replaces; at most 1 / (window + 1)."}
    )
    divergence_weight: float = field(default=1.0, metadata={"help": "Weight of L_div, the divergence."})
    modified_logit_weight: float = field(
        default=0.0, metadata={"help": "Weight of L_mod, the loss on modified logits; 0 turns it off."}
    )
    hidden_state_weight: float = field(
        default=0.0, metadata={"help": "Weight of L_hid, the loss on hidden states; 0 turns it off."}
    )
    attention_score_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of L_att, the loss on attention scores; must be 0 if the numbers of heads differ."},
    )


class CausalLesson(NamedTuple):
    """What one batch went through."""

    teacher_logits: Tensor  # (k, V), about the positions M, reading X
    action: Action  # the tutor's
    ratio: Tensor  # (k,), a_t
    reward_teacher: Tensor  # (k,)
    reward_student: Tensor  # (k,)
    asked: Asked  # of X'
    divergences: Tensor  # (P,), of S from T, reading X'
    taught: Reading  # the teacher's, reading X'
    learned: Reading  # the student's, reading X'


class CausalTutorKD(nn.Module):
    """The trained module: student and tutor's head, and what the other losses need.

    Args:
        student: a causal language model.
        teacher: a ``Teacher`` of one.
        forbidden_ids: token ids that are never drawn: special tokens, and ids beyond the tokenizer's.
        settings: weights of the losses, window, sampling, the tutor's start.

    Raises:
        UserError: if the pair can't be trained together (vocabularies, heads), or a setting is out of its range.
    """

    forbidden_ids: Tensor

    def __init__(
        self, student: PreTrainedModel, teacher: Teacher, forbidden_ids: list[int], settings: CausalTutorKDSettings
    ):
        super().__init__()
        check_vocabulary(student, teacher)
        check_head("tutor-kd", student, CAUSAL)
        check_divergence(settings)
        if settings.window < 1:
            raise UserError(f"--window must be 1 or more tokens, not {settings.window}")
        if not 0 < settings.replaced_share <= 1 / (settings.window + 1):
            raise UserError(
                f"--replaced_share must be above 0 and at most 1 / (window + 1) = {1 / (settings.window + 1):.3g}, not "
                f"{settings.replaced_share:g}"
            )
        check_heads(student, teacher, settings.attention_score_weight)
        self.student = student
        self.reader = Reader(student)
        self.args = settings
        self.tutor = make_tutor(teacher, forbidden_ids, settings)
        learned, taught = matched_layers(student, teacher, settings)
        if settings.modified_logit_weight:
            self.modified_logit_head = ModifiedLogitHead(student)
            learned = learned._replace(hidden=learned.hidden or [student.config.num_hidden_layers])  # the head reads it
        self.asked_of_student, self.asked_of_teacher = learned._replace(logits=False), taught
        self.projection = Projection(student, teacher) if settings.hidden_state_weight else None
        self.register_buffer("forbidden_ids", torch.tensor(forbidden_ids, dtype=torch.long), persistent=False)

    def forward(self, batch: Batch, teacher: Teacher) -> StepOutput:
        """One step on X and M."""
        c, mask, weights = self.args, batch.mask, batch.position_weights
        masked, real, pairs, predicted, _ = batch.counts
        lesson = self.teach(batch, teacher)
        learned, taught, asked = lesson.learned, lesson.taught, lesson.asked

        # 5. All losses, for one backward pass: policy and plausibility reach the tutor, the others the student.
        total = (lesson.divergences * asked.weights).sum()
        divergence = functional.mean_over(total, asked.weights.sum(), predicted)
        terms = [Term(DIVERGENCE, c.divergence_weight, divergence)]
        if c.modified_logit_weight:
            state = at_positions(learned.hidden[-1], batch.masked_positions)
            answers = self.modified_logit_head(state)
            row = answers.unsqueeze(0), lesson.ratio.unsqueeze(0), weights.unsqueeze(0)
            answer = functional.modified_logit_loss(*row, masked)
            terms.append(Term(MODIFIED_LOGIT, c.modified_logit_weight, answer))
        terms += internal_losses(c, self.projection, learned, taught, mask, real, pairs)
        rewards = lesson.reward_teacher, lesson.reward_student
        terms += tutor_losses(
            c, lesson.action, lesson.teacher_logits, self.forbidden_ids, *rewards, True, masked, weights
        )
        means = tutor_figures(lesson.action, batch.original_ids, lesson.ratio, *rewards, masked, weights)
        return weighted_sum(terms, means)

    def teach(self, batch: Batch, teacher: Teacher) -> CausalLesson:
        """The reading and writing part of a step, up to the rewards."""
        mask, original_ids, positions = batch.attention_mask, batch.original_ids, batch.masked_positions
        asked = Asked.of(batch, batch.input_ids)

        # 1. The teacher reads X.
        clean = teacher(batch.input_ids, mask, self.asked_of_teacher if self.args.tutor == "none" else Ask(), asked[0])
        easy = functional.token_log_probability(clean.logits, asked.ids)
        among = torch.searchsorted(asked.positions, positions)  # the place of M among those that were asked about
        teacher_logits = clean.logits[among]

        # 2. The tutor replaces tokens, which gives X'.
        action = act(self.args, self.tutor, clean.features[among], teacher_logits, self.forbidden_ids, original_ids)
        replaced_ids = torch.where(batch.position_weights > 0, action.replaced_ids, original_ids)
        tutored_ids = batch.with_tokens(replaced_ids)

        # 3. The teacher reads X', unless that is X.
        taught = clean
        if self.args.tutor != "none":
            del clean  # its logits are as large as those that follow
            taught = teacher(tutored_ids, mask, self.asked_of_teacher, asked.positions)

        # 4. The student reads X'.
        tutored = Asked.of(batch, tutored_ids)
        learned = self.reader(tutored_ids, mask, self.asked_of_student, asked.positions)
        divergences, distances = compare(self.reader, learned.features, Targets(taught.logits), self.args)

        easier = functional.token_log_probability(taught.logits, tutored.ids)
        counted = spread(tutored.weights, tutored.positions, like=batch.input_ids, elsewhere=0.0)
        easier, easy, distances = (
            spread(each, tutored.positions, like=batch.input_ids, elsewhere=0.0) for each in (easier, easy, distances)
        )
        ahead = counted, positions, self.args.window
        return CausalLesson(
            teacher_logits,
            action._replace(replaced_ids=replaced_ids),
            functional.modified_logit_target(teacher_logits, original_ids, replaced_ids),
            functional.lookahead_teacher_reward(easier, easy, *ahead),
            functional.lookahead_student_reward(distances, *ahead),
            tutored,
            divergences,
            taught,
            learned,
        )


def build(
    student: PreTrainedModel, teacher: Teacher, settings: CausalTutorKDSettings, tokenizer: PreTrainedTokenizerBase
) -> CausalTutorKD:
    """A ``CausalTutorKD`` whose tutor draws tokens of text alone."""
    return CausalTutorKD(student, teacher, not_text(tokenizer, teacher), settings)
