"""What ``tutorkd compare`` is told."""

from dataclasses import dataclass, field

from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Runs the matrix of a recipe, variants of methods by students by seeds, at an equal budget; measures each student, "
    "an encoder after fine-tuning on labelled text or GLUE, a causal language model on held-out text, an embedding "
    "model on pairs of texts; writes recipe.yaml, results.json, results.md and plots. The same command goes on where "
    "it stopped."
)
SECTIONS = [  # of a recipe
    "common",
    "tokens",
    "flops",
    "variants",
    "students",
    "seeds",
    "points",
    "evaluate",
    "references",
    "baseline",
]


@dataclass
class CompareArguments:
    """What is compared and where; of the recipe's keys those that depend on where it is run."""

    output_dir: str = field(default="tutorkd-comparison", metadata={"help": "Folder for cells and results (a path)."})
    jobs: int | None = field(
        default=None, metadata={"help": "Cells that run at once, a number; by default one for each GPU, or one."}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the cells and the estimated time, write nothing; exit code 1 if one can't run."},
    )
    restart: bool = field(default=False, metadata={"help": "Delete what earlier runs left of these cells."})
    cell: str | None = field(
        default=None,
        metadata={
            "help": "Run only this cell, in this process: for a matrix that is spread over machines which share a disk."
        },
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Teacher, which replaces the one under common in the recipe."}
    )
    corpus: list[str] | None = field(
        default=None, metadata={"help": "Text, which replaces the corpus under common in the recipe."}
    )
    train: str | None = field(default=None, metadata={"help": "Training rows, which replace train under evaluate."})
    validation: str | None = field(
        default=None, metadata={"help": "Validation rows, which replace validation under evaluate."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder which replaces data_dir under evaluate, for encoders judged by GLUE."}
    )
    text: list[str] | None = field(
        default=None, metadata={"help": "Text which replaces the text under evaluate, for causal language models."}
    )
    sts: str | None = field(
        default=None, metadata={"help": "Pairs which replace sts under evaluate, for embedding models."}
    )
    paraphrases: str | None = field(default=None, metadata={"help": "Pairs which replace paraphrases, likewise."})
    retrieval: str | None = field(default=None, metadata={"help": "Rows which replace retrieval, likewise."})


def parser() -> OptionParser:
    """Options of the command; the recipe is a word of its own among them."""
    options = OptionParser("compare", DESCRIPTION, [CompareArguments], {}, takes_recipe=False)
    options.usage = "tutorkd compare RECIPE [options]"
    return options
