"""Evaluation: encoders fine-tuned on labelled text, causal language models as they are; measured and compared."""

from tutorkd.evaluation.arguments import EvaluateArguments, LanguageArguments
from tutorkd.evaluation.classification import evaluate_models
from tutorkd.evaluation.cost import milliseconds_per_sentence
from tutorkd.evaluation.language_models import evaluate_language_models
from tutorkd.evaluation.language_report import LanguageResult
from tutorkd.evaluation.report import EvaluationResult, results_table

__all__ = [
    "EvaluateArguments",
    "EvaluationResult",
    "LanguageArguments",
    "LanguageResult",
    "evaluate_language_models",
    "evaluate_models",
    "milliseconds_per_sentence",
    "results_table",
]
