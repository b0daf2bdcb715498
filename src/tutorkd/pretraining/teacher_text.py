"""What an embedding teacher reads where that isn't what its student reads: with another tokenizer, or another text."""

from transformers import PreTrainedTokenizerBase

from tutorkd.data.texts import Taught
from tutorkd.errors import UserError
from tutorkd.hub import CLASSIFICATION, load_tokenizer
from tutorkd.methods.embedding import reads_otherwise
from tutorkd.methods.pair import tokenizer_beside
from tutorkd.objective import EMBEDDING
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.sentence_teacher import SentenceTeacher
from tutorkd.students import PRESETS


def own_tokenizer(options: Distillation, teacher: SentenceTeacher) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a student that doesn't read as its teacher does; None of one that does.

    Raises:
        UserError: if it can't make batches, or a first stage needs the teacher's.
    """
    args = options.args
    if args.student in PRESETS:
        return None
    own = tokenizer_beside("student", args.student, True, args.trust_remote_code)
    if own is None or not reads_otherwise(teacher, own):
        return None
    if options.first is not None and options.first.objective is not EMBEDDING:
        raise UserError(
            f"the student {args.student} has a tokenizer of its own, so a first stage by {options.first.args.method}, "
            f"which compares token by token, can't make it: take --method {args.method} without this recipe, which has "
            "a single stage"
        )
    if args.student_init == "teacher":
        raise UserError(
            f"the student {args.student} has a tokenizer of its own, so the teacher's embeddings say nothing about its "
            "tokens: leave out --student_init teacher"
        )
    return load_tokenizer(args.student, "student", args.trust_remote_code, CLASSIFICATION)


def what_teacher_reads(
    options: Distillation, teacher: SentenceTeacher, tokenizer: PreTrainedTokenizerBase
) -> Taught | None:
    """What the teacher reads where that isn't what the student does, having another tokenizer or another text; else
    None.

    Args:
        tokenizer: the student's.
    """
    column = options.settings.teacher_text_column
    if column == options.text.text_column:
        column = None
    if column is None and tokenizer is teacher.tokenizer:
        return None
    return Taught(teacher.tokenizer, column, options.settings.learn_both)


def told_reading(options: Distillation, taught: Taught, tokenizer: PreTrainedTokenizerBase) -> str:
    """Which texts student and teacher read where these aren't the same tokens, in a line."""
    own = "" if tokenizer is taught.tokenizer else "; the student has a tokenizer of its own"
    if taught.column is None:
        return f"text     both read the same texts{own}"
    students = [options.text.text_column, *[taught.column] * taught.both]
    return f"text     the student reads {' and '.join(map(repr, students))}, the teacher {taught.column!r}{own}"
