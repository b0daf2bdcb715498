"""What is asked of a classifier: a class, a set of classes or a number for each row, or a class for each word."""

from typing import Any, Literal, cast

from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PretrainedConfig

from tutorkd.errors import UserError

# The first three in transformers' words, which has none for the last: there the class of the model says it.
Problem = Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"]
LABELS_ARE = {
    "single_label_classification": "one class a row",
    "multi_label_classification": "a list of classes a row",
    "regression": "a number a row",
    "token_classification": "a class for each word of a row's list of words",
}
ROWS, WORDS = "ForSequenceClassification", "ForTokenClassification"  # how the classes of models end


def problem_of(config: PretrainedConfig) -> Problem:
    """What a classifier's logits are; where its configuration doesn't say, one alone is a number."""
    if any(name.endswith(WORDS) for name in architectures_of(config)):
        return "token_classification"
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


def architectures_of(config: PretrainedConfig) -> list[str]:
    """Names of the classes of models that a checkpoint was saved from; none where it says none, or no list of them."""
    return list(map(str, config.architectures)) if isinstance(config.architectures, list) else []


def auto_class(problem: Problem) -> Any:
    """What makes and loads models that answer it."""
    return AutoModelForTokenClassification if problem == "token_classification" else AutoModelForSequenceClassification


def class_names_of(config: PretrainedConfig) -> list[str]:
    """In the order of the logits.

    Raises:
        UserError: if the configuration doesn't number them from 0 on, or gives two of them one name.
    """
    names = cast(dict[int, str], config.id2label)
    if names.keys() != set(range(len(names))):
        raise UserError(
            f"the classes of {config.name_or_path or 'this classifier'} can't be told: id2label in its config.json "
            f"must number them from 0 to {len(names) - 1}, and has {', '.join(map(str, sorted(names)[:5]))}"
        )
    found = [str(names[code]) for code in range(len(names))]
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UserError(
            f"the classes of {config.name_or_path or 'this classifier'} can't be told apart: id2label in its "
            f"config.json has {twice!r} twice; give each a name of its own"
        )
    return found
