"""What any method asks of a student and a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tutorkd.capture import prepare_layers
from tutorkd.errors import UserError
from tutorkd.hub import files_of, has_vocabulary, loading, quiet_transformers
from tutorkd.objective import CAUSAL, MASKED, Objective
from tutorkd.reader import has_head
from tutorkd.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_SPARE = 1024  # ids that published models of one tokenizer have behind its tokens, to a round number of them
_SPECIAL = ("mask_token", "cls_token", "sep_token", "pad_token", "unk_token")


def check_tokenizer(
    role: str,
    name: str | None,
    tokenizer: PreTrainedTokenizerBase,
    fetch: bool = False,
    trust_remote_code: bool = False,
    objective: Objective = MASKED,
) -> None:
    """Refuse a student or teacher whose own tokenizer gives token ids another meaning.

    Vocabularies of one size can hold other tokens. What tells is the tokenizer beside the model; a model that has none,
    or that wasn't loaded from anywhere, is taken as it is.

    Args:
        role: "student" or "teacher", for the message.
        name: Hub name or path that the model was loaded from; empty if it wasn't.
        tokenizer: the one whose token ids are trained on.
        fetch: ask the Hub if the tokenizer isn't here, as is right for a model that is only about to be loaded.
        objective: what the models are for. Which token pads the rows of causal ones is no matter to them.

    Raises:
        UserError: naming what differs.
    """
    if not name or name == tokenizer.name_or_path:
        return
    own = tokenizer_beside(role, name, fetch, trust_remote_code)
    if own is None or (difference := differing(own, tokenizer, objective)) is None:
        return
    given = tokenizer.name_or_path or "that is trained with"
    remedy = ", or build the student by --student thin" if role == "student" else ""
    if remedy and objective is CAUSAL:
        remedy += ", or ask the teacher before training: --method kd --teacher_top_k 64"
    raise UserError(
        f"the {difference.what} of the {role} {name} and of the tokenizer {given} differ: {difference.how}; choose "
        f"models that share {difference.share}{remedy}"
    )


def tokenizer_beside(
    role: str, name: str, fetch: bool = False, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model's folder or repository; None where there is none. As ``check_tokenizer``."""
    try:
        with loading(name, role) if fetch else quiet_transformers():
            folder, gguf = files_of(name)
            how = {"local_files_only": not fetch, "trust_remote_code": trust_remote_code, **gguf}
            own = AutoTokenizer.from_pretrained(folder, **how)
    except Exception:  # no tokenizer; the errors of transformers and of the Hub client share no base class
        return None
    return own if has_vocabulary(own) else None


class Difference(NamedTuple):
    """What of two tokenizers differs, how, and what they should share, in words."""

    what: str
    how: str
    share: str


def differing(
    own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, objective: Objective
) -> Difference | None:
    """How the ids of two tokenizers differ in meaning; None where all that both have are of the same tokens."""
    if own is tokenizer:
        return None
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    for token, index in sorted(own.get_vocab().items(), key=lambda entry: entry[1]):
        if tokens.get(index, token) != token:
            return Difference("vocabularies", f"token {index} is {token!r} and {tokens[index]!r}", "one")
    differ = [
        f"{kind} {getattr(own, kind)!r} and {getattr(tokenizer, kind)!r}"
        for kind in (() if objective is CAUSAL else _SPECIAL)
        if getattr(own, kind) != getattr(tokenizer, kind)
    ]
    return Difference("special tokens", ", ".join(differ), "them") if differ else None


def check_apart(student: PreTrainedModel, teacher: Teacher) -> None:
    """Refuse a student whose training would change the teacher.

    Raises:
        UserError: if they have weights in common.
    """
    if teacher.sharded:  # loaded for itself
        return
    frozen = {weight.data_ptr() for weight in teacher.parameters()}
    if any(weight.data_ptr() in frozen for weight in student.parameters()):
        raise UserError(
            "student and teacher share weights, so the teacher would change with the student: give a copy of the "
            "student, copy.deepcopy(student)"
        )


def check_head(method: str, model: PreTrainedModel, objective: Objective, role: str = "student") -> None:
    """Refuse a model without the head that is trained.

    Raises:
        UserError: naming what to load or build it with.
    """
    if not has_head(model):
        raise UserError(
            f"{method} trains the {role}'s {objective.head}, and a {type(model).__name__} has none: load or build "
            f"the {role} with {objective.model_class.__name__}"
        )


def prepare_pair(student: PreTrainedModel, teacher: Teacher, attention: bool) -> None:
    """Prepare both for being asked about their layers' hidden states and, where it is compared, attention.

    Raises:
        UserError: if attention is compared and can't be read.
    """
    teacher.prepare_layers(attention)
    prepare_layers(cast("PreTrainedModel", student.base_model), "student", attention=attention)


def check_vocabulary(student: PreTrainedModel, teacher: Teacher) -> None:
    """Refuse a student that can't read the teacher's token ids.

    Models of one tokenizer may have different numbers of spare ids behind its tokens, as those of Qwen2.5 and Pythia
    do; ``functional.shared_vocabulary`` says what is compared of their logits.

    Raises:
        UserError: if the vocabularies differ in size by more than that.
    """
    s, t = student.config.vocab_size, teacher.config.vocab_size
    if abs(s - t) > _MOST_SPARE:
        raise UserError(
            f"student and teacher must share a vocabulary: {s} tokens against {t}; choose a student of the "
            "teacher's family or build one with --student thin"
        )


def check_heads(student: PreTrainedModel, teacher: Teacher, attention_score_weight: float) -> None:
    """Refuse a pair whose attention scores are to be compared and can't be.

    Raises:
        UserError: if the models differ in heads.
    """
    s, t = student.config, teacher.config
    if attention_score_weight and s.num_attention_heads != t.num_attention_heads:
        raise UserError(
            f"attention scores of {s.num_attention_heads} student heads and {t.num_attention_heads} teacher heads "
            "can't be compared: give the student as many heads, or train without them: --attention_score_weight 0"
        )
