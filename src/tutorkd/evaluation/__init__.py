"""Evaluation of encoders: fine-tuned on labelled text, measured and compared."""

from tutorkd.evaluation.arguments import EvaluateArguments
from tutorkd.evaluation.classification import evaluate_models
from tutorkd.evaluation.cost import milliseconds_per_sentence
from tutorkd.evaluation.report import EvaluationResult, results_table

__all__ = [
    "EvaluateArguments",
    "EvaluationResult",
    "evaluate_models",
    "milliseconds_per_sentence",
    "results_table",
]
