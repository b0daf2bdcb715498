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
