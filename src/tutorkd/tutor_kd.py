"""Tutor-KD: what is trained, and one training step from top to bottom.

Reference: Kim et al., "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor
Network", EMNLP 2022 (doi 10.18653/v1/2022.emnlp-main.498). Each formula is in ``tutorkd.functional``.
"""

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutorkd import functional as F
from tutorkd.capture import prepare_for_capture
from tutorkd.data.masking import BatchCounts
from tutorkd.errors import UserError
from tutorkd.sampling import sample_replacements
from tutorkd.step import StepOutput, at_positions, spread
from tutorkd.teacher import EncoderStates, Teacher, encoder_states

if TYPE_CHECKING:
    from tutorkd.config import TutorKDConfig


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
        return self.classifier(self.LayerNorm(nn.functional.gelu(self.dense(hidden)))).squeeze(-1)


class Lesson(NamedTuple):
    """What one batch went through."""

    teacher_logits: Tensor  # (k, V), reading X^M
    policy_logits: Tensor  # (k, V)
    replaced_ids: Tensor  # (k,), x'
    ratio: Tensor  # (k,), a^T
    student_logits: Tensor  # (B, L), f(h^S) before the sigmoid
    reward_teacher: Tensor  # (k,)
    reward_student: Tensor  # (k,)
    taught: EncoderStates  # the teacher's, reading X'
    learned: EncoderStates  # the student's, reading X'


class TutorKD(nn.Module):
    """The trained module: student, tutor's head, modified-logit head and hidden-state projection.

    The frozen teacher is not part of it: it is an argument of the forward pass.

    Args:
        student: an encoder without a head.
        teacher: a ``Teacher``.
        special_ids: token ids that the tutor never writes.
        config: weights of the losses, sampling, the tutor's start.

    Raises:
        UserError: if the pair can't be trained together (vocabularies, depths, heads).
    """

    special_ids: Tensor
    accepts_loss_kwargs = True  # tells Trainer that the loss is a mean over the whole accumulated batch

    def __init__(
        self, student: PreTrainedModel, teacher: Teacher, special_ids: list[int], config: "TutorKDConfig"
    ):
        super().__init__()
        check_pair(student, teacher, config)
        prepare_for_capture(student, "student")
        self.student = student
        self.args = config
        self.tutor = copy.deepcopy(teacher.head).float().requires_grad_(True)
        if config.tutor_init == "random":
            self.tutor.reset_parameters()
        initializer_range = getattr(student.config, "initializer_range", 0.02)
        self.modified_logit_head = ModifiedLogitHead(student.config.hidden_size, initializer_range)
        self.projection = nn.Linear(student.config.hidden_size, teacher.config.hidden_size, bias=False)
        with torch.no_grad():
            if student.config.hidden_size == teacher.config.hidden_size:
                nn.init.eye_(self.projection.weight)  # a student made of the teacher's layers starts aligned
            else:
                nn.init.normal_(self.projection.weight, std=initializer_range)
        self.register_buffer("special_ids", torch.tensor(special_ids, dtype=torch.long), persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        corrupted_ids: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        *,
        teacher: Teacher,
        num_items: BatchCounts | None = None,
    ) -> StepOutput:
        """One step on X (B, L), X^M (B, L) and M (k,), indices into the flattened rows."""
        c = self.args
        masked, real, pairs = num_items or (None, None, None)
        lesson = self.teach(input_ids, corrupted_ids, masked_positions, attention_mask, teacher=teacher)

        # 5. All losses, for one backward pass: policy and plausibility reach the tutor, the others the student.
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        target = spread(lesson.ratio, masked_positions, like=input_ids, elsewhere=1.0)
        reward = lesson.reward_teacher + lesson.reward_student
        losses = {
            "loss_modified_logit": F.modified_logit_loss(lesson.student_logits, target, mask, real),
            "loss_policy": F.policy_loss(lesson.policy_logits, lesson.replaced_ids, reward, masked),
            "loss_plausibility": F.plausibility_loss(lesson.policy_logits, lesson.teacher_logits, masked),
        }
        weights = {
            "loss_modified_logit": c.modified_logit_weight,
            "loss_policy": c.policy_weight,
            "loss_plausibility": c.plausibility_weight,
            "loss_hidden_state": c.hidden_state_weight,
            "loss_attention_score": c.attention_score_weight,
        }
        if c.hidden_state_weight:
            losses["loss_hidden_state"] = self._hidden_state_loss(lesson.learned, lesson.taught, mask, real)
        if c.attention_score_weight:
            losses["loss_attention_score"] = _attention_score_loss(lesson.learned, lesson.taught, mask, pairs)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()

        k = max(len(masked_positions), 1) if masked is None else masked
        original_ids = input_ids.flatten()[masked_positions]
        metrics = {name: value.detach() for name, value in losses.items()} | {
            "reward_teacher": lesson.reward_teacher.sum() / k,
            "reward_student": lesson.reward_student.sum() / k,
            "share_original": (lesson.replaced_ids == original_ids).sum() / k,
            "share_ratio_1": (lesson.ratio == 1).sum() / k,
            "tutor_entropy": F.policy_entropy(lesson.policy_logits).sum() / k,
        }
        return StepOutput(loss, metrics)

    def teach(
        self,
        input_ids: Tensor,
        corrupted_ids: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        *,
        teacher: Teacher,
    ) -> Lesson:
        """The reading and writing part of a step, up to the rewards."""
        original_ids = input_ids.flatten()[masked_positions]

        # 1. The teacher reads X^M.
        hidden = at_positions(teacher.last_hidden_state(corrupted_ids, attention_mask), masked_positions)
        teacher_logits = teacher.logits(hidden)

        # 2. The tutor replaces the masked tokens, which gives X'.
        policy_logits = self.tutor(hidden.float())
        replaced_ids = sample_replacements(policy_logits, self.args.sampling, self.args.top_k, self.special_ids)
        tutored_ids = input_ids.flatten().index_put((masked_positions,), replaced_ids).view_as(input_ids)

        # 3. The teacher reads X'.
        taught = teacher.states(tutored_ids, attention_mask)
        tutored_logits = teacher.logits(at_positions(taught.hidden[-1], masked_positions))

        # 4. The student reads X'.
        learned = encoder_states(self.student, tutored_ids, attention_mask)
        student_logits = self.modified_logit_head(learned.hidden[-1])

        ratio = F.modified_logit_target(teacher_logits, original_ids, replaced_ids)
        return Lesson(
            teacher_logits,
            policy_logits,
            replaced_ids,
            ratio,
            student_logits,
            F.teacher_reward(tutored_logits, original_ids, replaced_ids),
            F.student_reward(ratio, at_positions(student_logits, masked_positions)),
            taught,
            learned,
        )

    @torch.no_grad()
    def answer(
        self,
        input_ids: Tensor,
        corrupted_ids: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        *,
        teacher: Teacher,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The student's answers at masked positions whose tokens are drawn from the teacher's own distribution.

        The teacher's, not the tutor's: the questions then stay the same while the tutor learns.

        Returns:
            The student's a^S, the teacher's a^T, and 1 where the token drawn is the original, else 0; each (k,).
        """
        original_ids = input_ids.flatten()[masked_positions]
        hidden = at_positions(teacher.last_hidden_state(corrupted_ids, attention_mask), masked_positions)
        logits = teacher.logits(hidden)
        replaced_ids = sample_replacements(logits, "multinomial", 0, self.special_ids, generator)
        ids = input_ids.flatten().index_put((masked_positions,), replaced_ids).view_as(input_ids)
        learned = self.student(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        answers = at_positions(self.modified_logit_head(learned), masked_positions).float().sigmoid()
        ratio = F.modified_logit_target(logits, original_ids, replaced_ids)
        return answers, ratio, (replaced_ids == original_ids).float()

    def _hidden_state_loss(
        self, learned: EncoderStates, taught: EncoderStates, mask: Tensor, real: F.Count
    ) -> Tensor:
        """L_hid, the sum over the embedding output and every layer of the student."""
        step = _layer_step(learned, taught)
        losses = [
            F.hidden_state_loss(self.projection(hidden), taught.hidden[layer * step], mask, real)
            for layer, hidden in enumerate(learned.hidden)
        ]
        return torch.stack(losses).sum()


def _attention_score_loss(learned: EncoderStates, taught: EncoderStates, mask: Tensor, pairs: F.Count) -> Tensor:
    """L_att, the sum over every layer of the student."""
    step = _layer_step(learned, taught)
    losses = [
        F.attention_score_loss(student.query, student.key, teacher.query, teacher.key, mask, pairs)
        for student, teacher in zip(learned.attention, taught.attention[step - 1 :: step], strict=True)
    ]
    return torch.stack(losses).sum()


def _layer_step(learned: EncoderStates, taught: EncoderStates) -> int:
    """N / m: layer l of the student matches layer g(l) = l N / m of the teacher."""
    return (len(taught.hidden) - 1) // (len(learned.hidden) - 1)


def check_pair(student: PreTrainedModel, teacher: Teacher, config: "TutorKDConfig") -> None:
    """Refuse a pair that can't be trained together, before anything is spent on it.

    Raises:
        UserError: saying which sizes disagree and what to change.
    """
    s, t = student.config, teacher.config
    if s.vocab_size != t.vocab_size:
        raise UserError(
            f"student and teacher must share a vocabulary: {s.vocab_size} tokens against {t.vocab_size}; "
            "choose a student of the teacher's family or build one with --student half"
        )
    if t.num_hidden_layers % s.num_hidden_layers:
        raise UserError(
            f"a student of {s.num_hidden_layers} layers can't be matched to a teacher of {t.num_hidden_layers}: "
            f"choose a depth that divides it, such as {_divisors(t.num_hidden_layers)}"
        )
    if config.attention_score_weight and s.num_attention_heads != t.num_attention_heads:
        raise UserError(
            f"attention scores of {s.num_attention_heads} student heads and {t.num_attention_heads} teacher heads "
            "can't be compared: give the student as many heads, or train without them: --attention_score_weight 0"
        )


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n) if n % d == 0)
