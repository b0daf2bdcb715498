"""What a trained tutor does to sentences, word by word."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from transformers import PreTrainedTokenizerBase

from tutorkd.batch import Batch
from tutorkd.methods.causal_tutor_kd import CausalLesson, CausalTutorKD
from tutorkd.methods.tutor_kd import Lesson, TutorKD
from tutorkd.trainer import DistillationTrainer


class Replacement(NamedTuple):
    """One token of a sentence that the tutor replaced, and what came of it."""

    original: str
    replacement: str
    ratio: float  # a^T, the teacher's
    answer: float | None  # a^S, the student's; one that is causal, or learns the MLM's distribution, isn't asked
    reward_teacher: float
    reward_student: float


class Example(NamedTuple):
    """A sentence and the tutor's replacements in it, in order."""

    sentence: str
    replacements: list[Replacement]


@torch.no_grad()
def tutor_examples(trainer: DistillationTrainer, sentences: Sequence[str]) -> list[Example]:
    """Let the tutor rewrite each sentence once, with positions and samples from the trainer's seed."""
    tokenizer, module = trainer.processing_class, cast(TutorKD | CausalTutorKD, trainer.model.eval())
    torch.manual_seed(trainer.args.seed)
    examples = []
    for draw, sentence in enumerate(sentences):
        ids = tokenizer(sentence, truncation=True)["input_ids"]
        batch: Batch = trainer._prepare_inputs(trainer.masking([{"input_ids": ids, "draw": draw}]))
        lesson = module.teach(batch, trainer.teacher)
        examples.append(Example(sentence, replacements(tokenizer, batch, lesson)))
    return examples


def replacements(tokenizer: PreTrainedTokenizerBase, batch: Batch, lesson: Lesson | CausalLesson) -> list[Replacement]:
    """What a lesson on a batch without filled-up positions was about, one for each masked position."""
    ids = batch.original_ids, lesson.action.replaced_ids
    originals, replaced = ([shown(tokenizer, token) for token in each.tolist()] for each in ids)
    answers: list[float | None] = [None] * len(originals)
    if isinstance(lesson, Lesson) and lesson.student_logits.shape == batch.input_ids.shape:
        answers = lesson.student_logits.float().flatten()[batch.masked_positions].sigmoid().tolist()
    rewards = lesson.reward_teacher.tolist(), lesson.reward_student.tolist()
    rows = zip(originals, replaced, lesson.ratio.tolist(), answers, *rewards, strict=True)
    return [Replacement(*row) for row in rows]


def shown(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token as it is read: a WordPiece with its marks, of bytes the text that they are."""
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    text = tokenizer.convert_tokens_to_string([token])
    return text.strip() or repr(text) if token.startswith(("Ġ", "Ċ", "▁")) else token
