"""Figures of causal language models, and tables of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.columns import ModelColumns, shown


@dataclass(frozen=True)
class LanguageResult:
    """One model's figures; None where it wasn't measured.

    Attributes:
        name: as the user gave it.
        is_teacher: whether the others are held against it.
        parameters: shared ones counted once.
        bytes: size of the checkpoint's weight files.
        number_format: of the weights as they were computed with.
        documents, text_bytes: of the held-out text, in UTF-8; of conversations, the bytes of their answers.
        text_tokens: how many tokens the model's tokenizer makes of it.
        perplexity: per token, exp of the mean negative log-likelihood.
        bits_per_byte: negative log-likelihood of the text in bits, through its bytes.
        divergence: KL(teacher || model) per token of the text, in nats.
        own_tokens: tokens of the model's own continuations.
        own_divergence: KL(model || teacher) per token of these, in nats.
        own_divergence_standard_error: over prompts.
        own_perplexity: the teacher's, of these, per token.
        tokens_per_second: of generation, median over prompts, one at a time.
        tokens_per_second_first_quartile, tokens_per_second_third_quartile: half of the prompts lie between the two.
        generation_bytes: weights, and what generation takes at its peak beside them.
        not_compared: why the model isn't held against the teacher, where one was given.
        tasks: metrics of lm-eval by task.
        seconds: time of the evaluation.
    """

    name: str
    is_teacher: bool
    parameters: int
    bytes: int
    number_format: str
    documents: int | None
    text_bytes: int | None
    text_tokens: int | None
    perplexity: float | None
    bits_per_byte: float | None
    divergence: float | None
    own_tokens: int | None
    own_divergence: float | None
    own_divergence_standard_error: float | None
    own_perplexity: float | None
    tokens_per_second: float | None
    tokens_per_second_first_quartile: float | None
    tokens_per_second_third_quartile: float | None
    generation_bytes: int | None
    not_compared: str | None
    tasks: dict[str, dict[str, float]]
    threads: int
    device: str
    seconds: float


def language_columns(
    results: Sequence[LanguageResult], args: EvaluateArguments, language: LanguageArguments
) -> ModelColumns:
    """The table of causal language models."""
    results = shown(results)
    return ModelColumns(list(map(_heading, results)), list(_rows(results)), _caption(results, args, language))


def text_measured(documents: int | None, size: int | None, chats: bool) -> str:
    """How much text was measured on, in words."""
    return f"{documents:,} {'conversations' if chats else 'documents'}, {size:,} bytes{' of answers' * chats}"


def prompts_named(length: int, chats: bool) -> str:
    """What models go on from, in words."""
    return "conversations up to their last answer" if chats else f"prompts of {length} tokens"


def _heading(result: LanguageResult) -> str:
    return f"{result.name} (teacher)" if result.is_teacher else result.name


def _number(value: float | None, form: str, behind: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{behind}"


def _own_divergence(result: LanguageResult) -> str | None:
    error = _number(result.own_divergence_standard_error, ".4f")
    return _number(result.own_divergence, ".4f", f" ± {error}" if error else "")


def _speed(result: LanguageResult) -> str | None:
    if result.tokens_per_second is None:
        return None
    quartiles = f"{result.tokens_per_second_first_quartile:.1f}-{result.tokens_per_second_third_quartile:.1f}"
    return f"{result.tokens_per_second:.1f} ({quartiles})"


def _megabytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:,.1f} MB"


_FIGURES: list[tuple[str, Callable[[LanguageResult], str | None]]] = [
    ("parameters", lambda result: f"{result.parameters / 1e6:,.1f} M"),
    ("size on disk", lambda result: f"{result.bytes / 1e6:,.1f} MB"),
    ("number format", lambda result: result.number_format),
    ("tokens of the text", lambda result: _number(result.text_tokens, ",")),
    ("perplexity per token", lambda result: _number(result.perplexity, ",.2f")),
    ("bits per byte", lambda result: _number(result.bits_per_byte, ".4f")),
    ("KL(teacher || model)", lambda result: _number(result.divergence, ".4f")),
    ("KL(model || teacher), own text", _own_divergence),
    ("teacher's perplexity, own text", lambda result: _number(result.own_perplexity, ",.2f")),
    ("tokens/s", _speed),
    ("memory of generation", lambda result: _megabytes(result.generation_bytes)),
]


def _rows(results: Sequence[LanguageResult]) -> Iterator[tuple[str, list[str]]]:
    figures = list(_FIGURES)
    names = dict.fromkeys((task, name) for result in results for task, found in result.tasks.items() for name in found)
    for task, name in names:
        if not _is_error(name):
            figures.append((f"{task}: {name}", partial(_metric, task, name)))
    for label, figure in figures:
        found = [figure(result) for result in results]
        if any(found):
            yield label, [each or "-" for each in found]


def _is_error(metric: str) -> bool:
    return metric.split(" ")[0].endswith("_stderr")


def _metric(task: str, name: str, result: LanguageResult) -> str | None:
    found = result.tasks.get(task, {})
    metric, *filtered = name.split(" ", 1)
    error = found.get(" ".join([f"{metric}_stderr", *filtered]))
    return _number(found.get(name), ".4f", "" if error is None else f" ± {error:.4f}")


def _caption(results: Sequence[LanguageResult], args: EvaluateArguments, language: LanguageArguments) -> str:
    first = results[0]
    said = []
    if language.text:
        where = "torch's on the GPU" if first.device.startswith("cuda") else "resident in the process"
        chats = language.messages_column is not None
        said = [
            f"Text: {text_measured(first.documents, first.text_bytes, chats)}, in "
            f"rows of at most {args.max_length} tokens, each token {'of an answer ' * chats}scored once; KL: nats a "
            "token."
        ]
        if language.teacher:
            said.append(
                f"Own text: what a model writes after at most {language.prompts} "
                f"{prompts_named(language.prompt_length, chats)}, up to {language.new_tokens} tokens drawn at "
                f"temperature 1 with seed {args.seed}; ± is the standard error over prompts."
            )
        said.append(
            f"tokens/s: one prompt at a time, the likeliest {language.new_tokens} tokens, median (quartiles); memory: "
            f"the weights, and the most that generation adds, {where}; {first.device}, threads: {first.threads}."
        )
    for result in results:
        if result.not_compared:
            said.append(f"No KL for {result.name}: {result.not_compared}.")
    return " ".join(said) or f"Tasks of lm-eval; {first.device}."
