"""``tutorkd evaluate``: how good, how small and how fast models are."""

from collections.abc import Sequence

from rich.console import Console

from tutorkd.errors import UserError
from tutorkd.evaluation import evaluate_models, results_table
from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments, parser
from tutorkd.evaluation.classification import classifier_folders, evaluation_plan
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.embedding_models import (
    are_embeddings,
    check_options,
    embedding_plan,
    evaluate_embeddings,
)
from tutorkd.evaluation.embedding_report import embedding_table
from tutorkd.evaluation.language_models import are_causal, evaluate_language_models, language_plan
from tutorkd.evaluation.language_report import language_table
from tutorkd.evaluation.soft_targets import TaskDistillationArguments


def run(argv: Sequence[str]) -> int:
    args, soft, language, embedding = parser().read(argv)
    if are_embeddings(args.models, language, embedding):
        return _embeddings(args, language, embedding)
    if not are_causal(args.models, args, language):
        return _encoders(args, soft)
    if soft.distill_from is not None:
        raise UserError(f"--distill_from is for encoders, and {args.models[0]} is a causal language model")
    return _causal(args, language)


def _encoders(args: EvaluateArguments, soft: TaskDistillationArguments) -> int:
    if args.dry_run:
        return _tell(evaluation_plan(args.models, args, soft))
    results = evaluate_models(args.models, args, soft)
    Console(highlight=False).print(results_table(results))
    print(f"written to {args.output_dir}: results.md, results.json")
    if args.save_models:
        for model, folder in classifier_folders(args.models, args).items():
            print(f"classifier of {model}: {folder}")
    return 0


def _causal(args: EvaluateArguments, language: LanguageArguments) -> int:
    if args.dry_run:
        return _tell(language_plan(args.models, args, language))
    results = evaluate_language_models(args.models, args, language)
    Console(highlight=False).print(language_table(results, args, language))
    print(f"written to {args.output_dir}: results.md, results.json")
    return 0


def _embeddings(args: EvaluateArguments, language: LanguageArguments, embedding: EmbeddingArguments) -> int:
    check_options(args, language, embedding)
    if args.dry_run:
        return _tell(embedding_plan(args.models, args, language.teacher, embedding, language.tasks))
    results = evaluate_embeddings(args.models, args, language.teacher, embedding, language.tasks)
    Console(highlight=False).print(embedding_table(results))
    print(f"written to {args.output_dir}: results.md, results.json")
    return 0


def _tell(plan: dict[str, str]) -> int:
    width = max(map(len, plan))
    print("\n".join(f"{name:<{width}} {fact}" for name, fact in plan.items()))
    return 0
