"""A decoder that learns from a teacher with another tokenizer."""

from collections.abc import Callable
from functools import cache

from transformers import PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.hub import load_tokenizer
from tutorkd.methods import choose_method
from tutorkd.methods.pair import differing, tokenizer_beside
from tutorkd.objective import CAUSAL
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.spelling import Spelling
from tutorkd.students import PRESETS
from tutorkd.token_bytes import bytes_of_tokens


def students_tokenizer(options: Distillation, teachers: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a decoder's rows: the teacher's or, where the student has another and the teacher is asked
    before training, that of the student.

    Raises:
        UserError: if a student with another tokenizer can't learn in this way.
    """
    args = options.args
    if args.student in PRESETS or not choose_method(args.method, CAUSAL).likeliest(options.settings):
        return teachers
    own = tokenizer_beside("student", args.student, True, args.trust_remote_code)
    if own is None or differing(own, teachers, CAUSAL) is None:
        return teachers
    why = f"the student {args.student} has a tokenizer of its own"
    if options.text.messages_column:
        raise UserError(
            f"{why}, and with it another chat template than the teacher: conversations can't be learned from it; give "
            "texts, or a student with the teacher's tokenizer"
        )
    if options.settings.divergence == "reverse-kl":
        raise UserError(
            f"{why}, so the teacher gives no probability to some of its tokens, which reverse KL can't compare: choose "
            "forward-kl, js or skew-kl as --divergence"
        )
    tokenizer = load_tokenizer(args.student, "student", args.trust_remote_code, CAUSAL.special_tokens)
    for each in (teachers, tokenizer):
        bytes_of_tokens(each)  # raises if a token doesn't say them
    return tokenizer


def spelling_of(
    teachers: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, teachers_size: int, own_size: int
) -> Callable[[], Spelling]:
    """What makes the teacher's tokens in the student's, once it is asked for; as ``Spelling``."""
    return cache(lambda: Spelling(teachers, own, teachers_size, own_size))
