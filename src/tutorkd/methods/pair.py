"""What any method asks of a student and a teacher."""

from transformers import PreTrainedModel

from tutorkd.errors import UserError
from tutorkd.teacher import Teacher


def check_vocabulary(student: PreTrainedModel, teacher: Teacher) -> None:
    """Refuse a student that can't read the teacher's token ids.

    Raises:
        UserError: if the vocabularies differ in size.
    """
    s, t = student.config.vocab_size, teacher.config.vocab_size
    if s != t:
        raise UserError(
            f"student and teacher must share a vocabulary: {s} tokens against {t}; choose a student of the "
            "teacher's family or build one with --student half"
        )


def check_layers(student: PreTrainedModel, teacher: Teacher, attention_score_weight: float) -> None:
    """Refuse a pair whose layers can't be compared one by one.

    Raises:
        UserError: if the student's depth doesn't divide the teacher's, or attention scores are to be compared of
            models that differ in heads.
    """
    s, t = student.config, teacher.config
    if t.num_hidden_layers % s.num_hidden_layers:
        divisors = ", ".join(str(d) for d in range(1, t.num_hidden_layers) if t.num_hidden_layers % d == 0)
        raise UserError(
            f"a student of {s.num_hidden_layers} layers can't be matched to a teacher of {t.num_hidden_layers}: "
            f"choose a depth that divides it, such as {divisors}"
        )
    if attention_score_weight and s.num_attention_heads != t.num_attention_heads:
        raise UserError(
            f"attention scores of {s.num_attention_heads} student heads and {t.num_attention_heads} teacher heads "
            "can't be compared: give the student as many heads, or train without them: --attention_score_weight 0"
        )
