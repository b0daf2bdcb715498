"""KD of causal models: the student's next-token distributions are drawn to the teacher's at all positions.

    L = mean over positions s of D(p_T(. | y_<s), q_S(. | y_<s))

Where the teacher was asked before, D compares its K likeliest tokens and all others together (``tutorkd.divergence``).

D is one of the divergences of ``tutorkd.divergence``. The rows y are the text (word-level KD) or, in a share of them,
what the student goes on to write from the first half of the row, or its own last answer in a conversation, as
on-policy GKD has it: it is then corrected where its own text leads it.

Reference: Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", ICLR
2024, algorithm 1 (arXiv 2306.13649); no gradient flows through what is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tutorkd.batch import Batch
from tutorkd.continuation import DRAWN, continued, ends_of, up_to_end
from tutorkd.divergence import Divergence
from tutorkd.errors import UserError
from tutorkd.functional import mean_over
from tutorkd.methods.next_token import DIVERGENCE, DIVERGENCE_HELP, Asked, DivergenceSettings, Targets, compare
from tutorkd.methods.pair import check_head, check_vocabulary
from tutorkd.objective import CAUSAL, Objective
from tutorkd.reader import Ask, Reader
from tutorkd.step import StepOutput
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITATION = """\
@inproceedings{agarwal-etal-2024-onpolicy,
  title = {On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes},
  author = {Agarwal, Rishabh and Vieillard, Nino and Zhou, Yongchao and Stanczyk, Piotr and Ramos, Sabela and
            Geist, Matthieu and Bachem, Olivier},
  booktitle = {The Twelfth International Conference on Learning Representations},
  year = {2024}
}"""

FIGURES = (DIVERGENCE,)


@dataclass
class CausalKDSettings(DivergenceSettings):
    """Constants of KD of causal models."""

    _argument_group_name = "method: KD"

    student_head: ClassVar[Objective | None] = CAUSAL

    divergence: Divergence = field(default="forward-kl", metadata=DIVERGENCE_HELP)
    teacher_top_k: int = field(
        default=0,
        metadata={
            "help": "Ask the teacher once, before training, and keep its K likeliest tokens of each position on disk; "
            "0: ask it at each step, and compare the whole vocabulary."
        },
    )
    on_policy_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the rows whose second half, or last answer, the student writes itself (on-policy GKD), "
            "0 to 1."
        },
    )


class CausalKD(nn.Module):
    """The trained module: a causal language model.

    Args:
        student: body and head.
        teacher: a ``Teacher`` of a causal language model.
        settings: the divergence, and the share of rows that the student writes.

    Raises:
        UserError: if the vocabularies differ, or a share is out of its range.
    """

    def __init__(self, student: PreTrainedModel, teacher: Teacher, settings: CausalKDSettings):
        super().__init__()
        if not settings.teacher_top_k:  # else the teacher reads what has been made of the text for it
            check_vocabulary(student, teacher)
        check_head("kd", student, CAUSAL)
        check_divergence(settings)
        if not 0 <= settings.on_policy_share <= 1:
            raise UserError(f"--on_policy_share must be from 0 to 1, not {settings.on_policy_share:g}")
        common = min(student.config.vocab_size, teacher.config.vocab_size)
        if not 0 <= settings.teacher_top_k < common:
            raise UserError(f"--teacher_top_k must be from 0 to {common - 1}, not {settings.teacher_top_k}")
        if settings.teacher_top_k and settings.on_policy_share:
            raise UserError(
                "the teacher has to read what the student writes, so it can't be asked before training: leave out "
                "--teacher_top_k or --on_policy_share"
            )
        self.student = student
        self.reader = Reader(student)
        self.args = settings
        # Spare ids that the teacher lacks, which the student mustn't write where the teacher reads it.
        self.unknown_ids = list(range(teacher.config.vocab_size, student.config.vocab_size))

    def forward(self, batch: Batch, teacher: Teacher | None) -> StepOutput:
        """One step on rows X; a teacher isn't needed where the rows know its likeliest tokens."""
        asked = Asked.of(batch, batch.input_ids)
        taught = Targets.of(batch, asked, teacher)
        learned = self.reader(batch.input_ids, batch.attention_mask, Ask(logits=False), asked.positions)
        divergences, _ = compare(self.reader, learned.features, taught, self.args)
        loss = mean_over((divergences * asked.weights).sum(), asked.weights.sum(), batch.counts.predicted)
        return StepOutput(loss, {DIVERGENCE.name: loss.detach()})


@torch.no_grad()
def own_text(module: CausalKD, batch: Batch) -> Batch:
    """The batch with the student's own continuations in a share of its rows, each row by chance, at temperature 1.

    Of text it writes from the first half of a row to the row's end, over the end of a document too, as rows are packed;
    a row with padding stays as it is. Of a conversation it writes the last answer, to its end or the end of the longest
    row of the batch, and is asked about that alone in the row. Losses are still means over as many positions as the
    answers of the data had.
    """
    if not module.args.on_policy_share:
        return batch
    mask = batch.mask.bool()
    chosen = torch.rand(len(mask), device=mask.device) < module.args.on_policy_share
    if batch.answers is not None:
        return _own_answers(module, batch, chosen.tolist())
    chosen &= mask.all(-1)
    if not chosen.any():
        return batch
    input_ids, kept = batch.input_ids.clone(), batch.input_ids.shape[1] // 2
    settings = {"max_new_tokens": input_ids.shape[1] - kept, "eos_token_id": None}  # rows are as long as they were
    input_ids[chosen, kept:] = _written(module, input_ids[chosen, :kept].tolist(), settings)
    return batch._replace(input_ids=input_ids, corrupted_ids=input_ids)


def _own_answers(module: CausalKD, batch: Batch, chosen: list[bool]) -> Batch:
    """The batch with the student's own last answers in the chosen rows."""
    device, length = batch.input_ids.device, batch.input_ids.shape[1]
    ids, mask = batch.input_ids.cpu().clone(), batch.mask.cpu().clone()
    asked = torch.zeros(ids.shape, dtype=torch.bool)
    asked.view(-1)[batch.answers.cpu()] = True  # type: ignore[union-attr]
    starts = {row: _last_run(asked[row].tolist()) for row, own in enumerate(chosen) if own and asked[row].any()}
    if not starts:
        return batch
    ends = ends_of(module.student.generation_config)
    settings = {"max_new_tokens": length - min(starts.values()), "eos_token_id": ends or None}
    prompts = [ids[row, :start].tolist() for row, start in starts.items()]
    for (row, start), answer in zip(starts.items(), _written(module, prompts, settings).tolist(), strict=True):
        answer = up_to_end(answer[: length - start], ends)
        end = start + len(answer)
        ids[row, start:end] = torch.tensor(answer)
        mask[row] = torch.arange(length) < end
        asked[row] = (torch.arange(length) >= start) & (torch.arange(length) < end)
    input_ids = ids.to(device)
    return batch._replace(
        input_ids=input_ids,
        corrupted_ids=input_ids,
        attention_mask=None if mask.all() else mask.to(device),
        answers=asked.flatten().nonzero().squeeze(-1).to(device),
    )


def _last_run(asked: list[bool]) -> int:
    """Where the last run of positions begins that are asked about."""
    start = len(asked) - 1 - asked[::-1].index(True)
    while asked[start - 1]:  # the first position is never asked about
        start -= 1
    return start


def _written(module: CausalKD, prompts: list[list[int]], settings: dict[str, Any]) -> Tensor:
    """What the student writes behind each prompt, (n, L)."""
    student, training = module.student, module.student.training
    student.eval()
    try:
        settings = {**DRAWN, **settings}
        if module.unknown_ids:
            settings["suppress_tokens"] = module.unknown_ids
        return continued(student, prompts, settings)
    finally:
        student.train(training)


def check_divergence(settings: DivergenceSettings) -> None:
    """Refuse a mixture that isn't one.

    Raises:
        UserError: naming its range.
    """
    if not 0 <= settings.skew < 1:
        raise UserError(f"--skew must be from 0 to below 1, not {settings.skew:g}")
