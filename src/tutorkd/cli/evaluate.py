"""``tutorkd evaluate``: how good, how small and how fast encoders are on labelled text."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tutorkd.evaluation import evaluate_models, results_table
from tutorkd.evaluation.arguments import CLASSIFIER, parser
from tutorkd.evaluation.checkpoint import find_checkpoint
from tutorkd.evaluation.classification import evaluation_plan


def run(argv: Sequence[str]) -> int:
    (args,) = parser().read(argv)
    if args.dry_run:
        plan = evaluation_plan(args.models, args)
        width = max(map(len, plan))
        print("\n".join(f"{name:<{width}} {fact}" for name, fact in plan.items()))
        return 0
    results = evaluate_models(args.models, args)
    Console(highlight=False).print(results_table(results))
    print(f"written to {args.output_dir}: results.md, results.json")
    if args.save_models:
        for model in args.models:
            print(f"classifier of {model}: {Path(args.output_dir) / find_checkpoint(model).slug / CLASSIFIER}")
    return 0
