"""Students that give texts vectors, measured as they are: on similarity, paraphrases and retrieval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from statistics import fmean
from typing import Any, get_type_hints

from tutorkd.comparison.measures import COSTS, Column, Measures, Options, Score, Section, spread, training_caption
from tutorkd.evaluation.arguments import embedding_parser
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments
from tutorkd.evaluation.embedding_models import encoding_seconds, evaluate_embeddings
from tutorkd.evaluation.embedding_report import EmbeddingResult, summary
from tutorkd.evaluation.embedding_scores import CLOSENESS
from tutorkd.evaluation.pairs import read_data

EMBEDDINGS = Section(
    noun="embedding models",
    parser=embedding_parser,
    keys=tuple(field.name for field in fields(EmbeddingArguments)),
    data={
        ("sts", "paraphrases", "retrieval"): (
            "no pairs of texts: name some under evaluate or with --sts, --paraphrases or --retrieval"
        )
    },
)
MEAN, ERROR = "mean_of_pairs", "mean_of_pairs_error"
SCORE = Score(MEAN, "similarity, paraphrases and retrieval, mean, %", 100, standard_error=ERROR)
# Of each kind of pairs the figure that goes into the mean.
_CHOSEN = {"sts": "STS: Spearman", "paraphrases": "paraphrases: average precision", "retrieval": "retrieval: MRR@10"}
_KEPT = {name: kind for name, kind in get_type_hints(EmbeddingResult).items() if name != "resampled"}


def embedding_measures(embedding: EmbeddingArguments) -> Measures:
    """How embedding models are measured on these pairs: by one figure of each kind of pairs, and by their mean."""
    chosen = [_CHOSEN[kind] for kind in embedding.given]

    def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
        found, errors = evaluation["figures"], evaluation["standard_errors"]
        return {
            **found,
            MEAN: fmean(found[name] for name in chosen),
            ERROR: math.hypot(*(errors[name] for name in chosen)) / len(chosen),
            "parameters": evaluation["parameters"],
        }

    names = [*chosen, *([MEAN] if len(chosen) > 1 else [])]
    titles = {MEAN: f"mean of {len(chosen)}"}
    return Measures(
        section=EMBEDDINGS,
        types={**_KEPT, "standard_errors": dict[str, float]},
        with_head=False,
        score=SCORE,
        figures=figures,
        columns=(
            *(Column(f"{titles.get(name, name)}, %", name, spread(".1f", 100)) for name in names),
            Column("cosine with the teacher's", CLOSENESS, spread(".3f")),
            *COSTS,
        ),
        caption=lambda finished: _caption(finished, len(chosen)),
        check=_check,
        evaluate=_as_it_is,
        seconds=lambda model, teacher, options: encoding_seconds(model, teacher, options[1].teacher, options[2]),
    )


def _caption(finished: Sequence[Mapping[str, Any]], kinds: int) -> str:
    evaluation = finished[0]["evaluation"]
    error = 100 * max(cell["figures"][ERROR] for cell in finished)
    of_what = "mean" if kinds > 1 else "figure"
    return (
        f"{' '.join(evaluation['data'])} Mean ± standard deviation over seeds; the standard error of one {of_what}, "
        f"from resamples of pairs or queries, is at most {error:.1f} points. Cosine: the mean cosine between a model's "
        f"and the teacher's vectors of one text. Parameters are those of all modules. {training_caption(finished)} "
        "The operations are at most as many: they are counted for rows of the greatest length, which the teacher reads "
        "in each step, though texts may be shorter and its vectors kept."
    )


def _check(options: Options) -> None:
    read_data(options[2])


def _as_it_is(model: str, options: Options) -> dict[str, Any]:
    args, language, embedding = options
    args = replace(args, restart=True)  # an unfinished cell's figures may be of other settings
    (result,) = evaluate_embeddings([model], args, language.teacher, embedding, with_teacher=False)
    return summary(result)
