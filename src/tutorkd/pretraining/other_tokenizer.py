"""A decoder that learns from a teacher with another tokenizer."""

from transformers import PreTrainedTokenizerBase

from tutorkd.data.packing import backend_of
from tutorkd.errors import UserError
from tutorkd.hub import load_tokenizer
from tutorkd.methods import choose_method
from tutorkd.methods.pair import differing, tokenizer_beside
from tutorkd.objective import CAUSAL
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.spelling import Spelling
from tutorkd.students import PRESETS, keeps_weights


def check_named(options: Distillation) -> None:
    """Refuse a tokenizer for a student that can't have another than its teacher's.

    Raises:
        UserError: saying which students can.
    """
    args = options.args
    if args.student_tokenizer is None:
        return
    if not choose_method(args.method, options.objective).likeliest(options.settings):
        raise UserError(
            "--student_tokenizer is for decoders whose teacher is asked before training: add --method kd "
            "--teacher_top_k 64, or leave it out"
        )
    if keeps_weights(args.student, args.student_init):
        raise UserError(
            f"the student {args.student} has weights for the tokens of the tokenizer beside it: leave out "
            "--student_tokenizer, or add --student_init teacher"
        )


def spelling_of(options: Distillation, teachers: PreTrainedTokenizerBase) -> Spelling | None:
    """The teacher's tokens in those of a student that has another tokenizer; None of one that has the teacher's.

    Raises:
        UserError: if a student with another tokenizer can't learn in this way.
    """
    args, named = options.args, options.args.student_tokenizer
    if not choose_method(args.method, options.objective).likeliest(options.settings):
        return None
    if named is None and args.student in PRESETS:
        return None
    chats = options.text.messages_column is not None
    if named is None:
        own = tokenizer_beside("student", args.student, True, args.trust_remote_code)
        if own is None or differing(own, teachers, CAUSAL) is None:
            return None
    else:
        own = load_tokenizer(named, "tokenizer", args.trust_remote_code, CAUSAL.special_tokens)
        if _read_alike(own, teachers, chats):
            return None
    if options.settings.divergence == "reverse-kl":
        raise UserError(
            f"the student has another tokenizer than the teacher, {named or args.student}, so some of its tokens have "
            "no probability, which reverse KL can't compare: choose --divergence forward-kl, js or skew-kl"
        )
    return Spelling(teachers, own, chats)


def _read_alike(own: PreTrainedTokenizerBase, teachers: PreTrainedTokenizerBase, chats: bool) -> bool:
    """Whether two tokenizers make the same ids of each text or, with their chat templates, of each conversation."""
    parts = [
        (backend_of(each).to_str(), each.eos_token, each.chat_template if chats else None) for each in (own, teachers)
    ]
    return parts[0] == parts[1]
