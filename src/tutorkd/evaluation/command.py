"""What ``tutorkd evaluate`` does: models of each kind measured their way, and their tables."""

from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.classification import classifier_folders, evaluate_models, evaluation_plan
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.embedding_models import are_embeddings, check_options, embedding_plan, evaluate_embeddings
from tutorkd.evaluation.embedding_report import embedding_columns
from tutorkd.evaluation.language_models import are_causal, evaluate_language_models, language_plan
from tutorkd.evaluation.language_report import language_columns
from tutorkd.evaluation.records import going_on
from tutorkd.evaluation.report import results_table
from tutorkd.evaluation.soft_target_arguments import TaskDistillationArguments
from tutorkd.tables import facts, show


def evaluate(
    args: EvaluateArguments,
    soft: TaskDistillationArguments,
    language: LanguageArguments,
    embedding: EmbeddingArguments,
) -> None:
    """Measure models by what they are, or print what that would take; prints a table and where it is written.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM.
        UserError: if models, data and options don't fit together, or can't be used.
    """
    if are_embeddings(args.models, language, embedding):
        _embeddings(args, language, embedding)
    elif not are_causal(args.models, args, language):
        _encoders(args, soft)
    elif soft.distill_from is not None:
        raise UserError(f"--distill_from is for encoders, and {args.models[0]} is a causal language model")
    else:
        _causal(args, language)


def _encoders(args: EvaluateArguments, soft: TaskDistillationArguments) -> None:
    if args.dry_run:
        print(facts(evaluation_plan(args.models, args, soft)))
        return
    with going_on(args.restart):
        results = evaluate_models(args.models, args, soft)
    show(results_table(results))
    _print_written(args)
    if args.save_models:
        for model, folder in classifier_folders(args.models, args).items():
            print(f"classifier of {model}: {folder}")


def _causal(args: EvaluateArguments, language: LanguageArguments) -> None:
    if args.dry_run:
        print(facts(language_plan(args.models, args, language)))
        return
    with going_on(args.restart):
        results = evaluate_language_models(args.models, args, language)
    show(language_columns(results, args, language).table())
    _print_written(args)


def _embeddings(args: EvaluateArguments, language: LanguageArguments, embedding: EmbeddingArguments) -> None:
    check_options(args, language, embedding)
    if args.dry_run:
        print(facts(embedding_plan(args.models, args, language.teacher, embedding, language.tasks)))
        return
    with going_on(args.restart):
        results = evaluate_embeddings(args.models, args, language.teacher, embedding, language.tasks)
    show(embedding_columns(results).table())
    _print_written(args)


def _print_written(args: EvaluateArguments) -> None:
    print(f"written to {args.output_dir}: results.md, results.json")
