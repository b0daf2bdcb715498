"""``tutorkd predict``: a classifier's answers to a file of texts."""

from collections.abc import Sequence

from tutorkd.evaluation.predict_arguments import parser


def run(argv: Sequence[str]) -> int:
    (args,) = parser().read(argv)
    from tutorkd.evaluation.prediction import predict_file  # which loads models

    counts = predict_file(args)
    without = f", {counts['without_text']:,} without a text, which have no answer" if counts["without_text"] else ""
    print(f"written to {args.output}: {counts['rows']:,} rows{without}")
    return 0
