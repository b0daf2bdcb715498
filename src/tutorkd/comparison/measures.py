"""What students are measured by: encoders after fine-tuning on labelled text, causal language models as they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, cast, get_type_hints

from transformers import PreTrainedModel

from tutorkd import probe
from tutorkd.evaluation import arguments
from tutorkd.evaluation.arguments import NOT_SETTINGS, EvaluateArguments, LanguageArguments
from tutorkd.evaluation.classification import evaluate_models
from tutorkd.evaluation.cost import fine_tuning_seconds
from tutorkd.evaluation.labelled import align_labels, load_labelled
from tutorkd.evaluation.language_models import evaluate_language_models, language_plan, measuring_seconds
from tutorkd.evaluation.language_report import LanguageResult, prompts_named, text_measured
from tutorkd.evaluation.report import record_types
from tutorkd.options.parser import OptionParser
from tutorkd.words import duration

Options = tuple[Any, ...]  # instances of the dataclasses of a parser, in its order


class Score(NamedTuple):
    """The figure that variants are put in order by."""

    name: str
    axis: str  # what a plot says at its axis
    scale: float = 1.0  # from the figure to what is shown
    lower_is_better: bool = False
    standard_error: str | None = None  # the figure that says how far one seed's may be off on other text
    form: str = ".1f"  # of what is shown
    unit: str = "points"


def error_bar(row: Mapping[str, Any], score: Score) -> tuple[float, str] | None:
    """Half the length of the bar at a row's score, and what it is. One seed has no deviation; what is known of it, if
    anything, is how far its score may be off on other rows, or with other fine-tunings.

    Args:
        row: as ``results.json`` has it.
    """
    found = row["figures"][score.name]
    alone = row["figures"].get(score.standard_error, {}).get("mean")
    for length, what in (
        (found.get("standard_error"), "standard error over seeds"),
        (found.get("sd"), "standard deviation over seeds"),
        (alone, "standard error of the score"),
    ):
        if length is not None:
            return score.scale * length, what
    return None


def is_drawn(row: Mapping[str, Any], score: Score) -> bool:
    """Whether a row has a score that a plot can show; that of a model that has diverged may not be a number.

    Args:
        row: as ``results.json`` has it.
    """
    mean = row["figures"].get(score.name, {}).get("mean")
    return mean is not None and math.isfinite(mean)


def far_off(reference: float, scores: Sequence[float]) -> bool:
    """Whether a reference lies so far from the variants' scores that it would squash them in a plot: by more than three
    times their spread.
    """
    room = 3 * (max(scores) - min(scores))
    return room > 0 and not min(scores) - room <= reference <= max(scores) + room


def same_cost(costs: Sequence[float]) -> bool:
    """Whether variants cost the same, but for what the last whole step makes of a budget: within a twentieth."""
    return max(costs) <= 1.05 * min(costs)


class Column(NamedTuple):
    """A column of the table; where a row lacks the figure it says "-"."""

    heading: str
    figure: str
    words: Callable[[Mapping[str, Any]], str]  # of the figure's mean, sd and n


@dataclass(frozen=True)
class Section:
    """What a recipe's section ``evaluate`` says of models that are measured in one way.

    Attributes:
        noun: what is measured in this way.
        parser: of the options that say how.
        keys: those of them that the section may set; a result depends on these, and on the seed.
        data: keys of which one must be there, each time with what is said where none is.
    """

    noun: str
    parser: Callable[[], OptionParser]
    keys: tuple[str, ...]
    data: Mapping[tuple[str, ...], str]


@dataclass(frozen=True)
class Measures:
    """What differs between the ways that models are measured in.

    Attributes:
        section: of a recipe, that says how.
        types: of a result.
        with_head: whether a student's head is measured too.
        figures: of a result those that have a mean over seeds.
        repeated: of a result those figures that are means over seeds of measuring itself, with the value of each.
            Where there are such, references are measured once, with the first seed of training.
        caption: of finished cells, as ``results.json`` has them, what the table's figures are.
        check: raises UserError for data that nothing can be measured on.
        evaluate: a checkpoint's result.
        seconds: what measuring a model takes here, beside its teacher unless it is the teacher; a rough figure.
    """

    section: Section
    types: Mapping[str, Any]
    with_head: bool
    score: Score
    figures: Callable[[Mapping[str, Any]], dict[str, float]]
    columns: tuple[Column, ...]
    caption: Callable[[Sequence[Mapping[str, Any]]], str]
    check: Callable[[Options], None]
    evaluate: Callable[[str, Options], dict[str, Any]]
    seconds: Callable[[PreTrainedModel, PreTrainedModel | None, Options], float]
    repeated: Callable[[Mapping[str, Any]], dict[str, list[float]]] | None = None


def spread(form: str, scale: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
    """Mean ± deviation."""

    def words(found: Mapping[str, Any]) -> str:
        return " ± ".join(f"{scale * each:{form}}" for each in (found["mean"], found["sd"]) if each is not None)

    return words


def _tera(found: Mapping[str, Any]) -> str:
    flops = found["mean"]
    return f"{flops / 1e12:,.0f}" if flops >= 1e14 else f"{flops / 1e12:.3g}"


COSTS = (
    Column("parameters", "parameters", lambda found: f"{found['mean'] / 1e6:.1f} M"),
    Column("training", "training_seconds", lambda found: duration(found["mean"])),
    Column("training TFLOP", "training_flops", _tera),
)


def training_caption(finished: Sequence[Mapping[str, Any]]) -> str:
    """What the columns of a training's costs are."""
    evaluations = [cell["evaluation"] for cell in finished]
    places = dict.fromkeys(f"{each['device']}, threads: {each['threads']}" for each in evaluations)
    return (
        "Training: mean time (with its looks at held-out text) and floating-point operations of matrix products, on "
        f"{' and '.join(places)}."
    )


def learned_nothing(cell: Mapping[str, Any]) -> bool:
    """Whether a cell, as ``results.json`` has it, gives every row the same class."""
    return cell.get("evaluation", {}).get("only_class") is not None


def _labelled_caption(finished: Sequence[Mapping[str, Any]]) -> str:
    evaluation = finished[0]["evaluation"]
    error = 100 * max(cell["evaluation"]["standard_error"] for cell in finished)
    return (
        f"Scores: mean ± standard deviation over seeds, each on {evaluation['validation_rows']:,} rows after "
        f"fine-tuning on {evaluation['train_rows']:,}; the standard error of one accuracy is at most {error:.1f} "
        f"points. Parameters are the classifier's. {training_caption(finished)}"
    )


def _check_labelled(options: Options) -> None:
    args: EvaluateArguments = options[0]
    train = load_labelled(args.train, "train", *args.labelled_columns)
    align_labels(load_labelled(args.validation, "validation", *args.labelled_columns), train, args.validation)


def _fine_tuned(model: str, options: Options) -> dict[str, Any]:
    # An unfinished cell's evaluation is of other settings, or was stopped before the cell's result was written.
    (result,) = evaluate_models([model], replace(options[0], restart=True))
    return result.as_record()


def _fine_tuning_seconds(model: PreTrainedModel, teacher: PreTrainedModel | None, options: Options) -> float:
    args: EvaluateArguments = options[0]
    rows = len(load_labelled(args.train, "train", *args.labelled_columns))
    return fine_tuning_seconds(cast(PreTrainedModel, model.base_model), rows, args.max_length // 2, args)


_LABELLED_FIGURES = ("accuracy", "standard_error", "macro_f1", "parameters", "milliseconds_per_sentence")
ENCODERS = Measures(
    section=Section(
        noun="encoders",
        parser=arguments.encoder_parser,
        keys=tuple(field.name for field in fields(EvaluateArguments) if field.name not in (*NOT_SETTINGS, "seed")),
        data={
            (split,): f"no {split} data: name labelled text under evaluate or with --{split}"
            for split in ("train", "validation")
        },
    ),
    types=record_types("single_label_classification"),
    with_head=False,
    score=Score("accuracy", "accuracy after fine-tuning, %", 100, standard_error="standard_error"),
    figures=lambda evaluation: {name: evaluation[name] for name in _LABELLED_FIGURES},
    columns=(
        Column("accuracy %", "accuracy", spread(".1f", 100)),
        Column("macro F1 %", "macro_f1", spread(".1f", 100)),
        *COSTS,
        Column(probe.AUC.label, f"last_{probe.AUC.name}", lambda found: f"{found['mean']:.3f}"),
    ),
    caption=_labelled_caption,
    check=_check_labelled,
    evaluate=_fine_tuned,
    seconds=_fine_tuning_seconds,
)


def _language_figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    names = (*_ON_TEXT, "tokens_per_second", "generation_bytes", "parameters")
    found = {name: evaluation[name] for name in names}
    tasks = evaluation["tasks"].items()
    found |= {f"{task}: {name}": value for task, metrics in tasks for name, value in metrics.items()}
    return {name: value for name, value in found.items() if value is not None}


def _language_caption(finished: Sequence[Mapping[str, Any]]) -> str:
    evaluation, settings = finished[0]["evaluation"], finished[0]["settings"]["evaluate"]
    chats, length = settings["messages_column"] is not None, settings["prompt_length"]
    measured = text_measured(evaluation["documents"], evaluation["text_bytes"], chats)
    return (
        f"Mean ± standard deviation over seeds, on {measured}, in rows of at most {settings['max_length']} tokens. The "
        "lower the perplexity (per token), the bits and the KL (nats a token), the better; the nearest to the teacher "
        f"comes first. Own text: what a student writes after at most {settings['prompts']} "
        f"{prompts_named(length, chats)}, up to {settings['new_tokens']} tokens drawn at temperature 1. tokens/s: one "
        f"prompt at a time. {training_caption(finished)}"
    )


def _check_text(options: Options) -> None:
    args, language = options
    language_plan([], replace(args, restart=True), language)


def _as_it_is(model: str, options: Options) -> dict[str, Any]:
    args, language = options
    (result,) = evaluate_language_models([model], replace(args, restart=True), language, with_teacher=False)
    return asdict(result)


_ON_TEXT = ("perplexity", "bits_per_byte", "divergence", "own_divergence", "own_perplexity")
CAUSAL_MODELS = Measures(
    section=Section(
        noun="causal language models",
        parser=arguments.student_parser,
        keys=(
            *("max_length", "text_column", "bf16"),
            *(field.name for field in fields(LanguageArguments) if field.name != "teacher"),
        ),
        data={("text",): "no held-out text: name it under evaluate or with --text"},
    ),
    types={**get_type_hints(LanguageResult), "documents": int, "text_bytes": int},  # there is text
    with_head=True,
    score=Score(
        "divergence",
        "KL(teacher || student) on held-out text, nats a token",
        lower_is_better=True,
        form=".4f",
        unit="nats a token",
    ),
    figures=_language_figures,
    columns=(
        Column("perplexity", "perplexity", spread(",.2f")),
        Column("bits per byte", "bits_per_byte", spread(".4f")),
        Column("KL(teacher || student)", "divergence", spread(".4f")),
        Column("KL(student || teacher), own text", "own_divergence", spread(".4f")),
        Column("tokens/s", "tokens_per_second", spread(".1f")),
        *COSTS,
    ),
    caption=_language_caption,
    check=_check_text,
    evaluate=_as_it_is,
    seconds=lambda model, teacher, options: measuring_seconds(model, teacher, *options),
)
