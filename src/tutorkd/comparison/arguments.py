"""What ``tutorkd compare`` is told."""

from dataclasses import dataclass, field

from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Runs the matrix of a recipe (variants of methods x students x seeds) at an equal budget and measures each "
    "student: encoders after fine-tuning on labelled text or GLUE, causal language models on held-out text, embedding "
    "models on pairs of texts. Writes recipe.yaml, results.json, results.md and plots. If it was stopped, the same "
    "command continues."
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
        default=None,
        metadata={"help": "Number of cells that run at once; by default one for each GPU, and one if there is none."},
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the cells and the estimated time, and stop; exit code 1 if a cell can't run."},
    )
    restart: bool = field(default=False, metadata={"help": "Delete the results of earlier runs of these cells."})
    cell: str | None = field(
        default=None,
        metadata={
            "help": "Run only this cell (a name) in this process, to spread a matrix over machines that share a disk."
        },
    )
    teacher: str | None = field(default=None, metadata={"help": "Teacher to use instead of the recipe's."})
    corpus: list[str] | None = field(default=None, metadata={"help": "Text to use instead of the recipe's corpus."})
    train: str | None = field(default=None, metadata={"help": "Training rows to use instead of the recipe's."})
    validation: str | None = field(default=None, metadata={"help": "Validation rows to use instead of the recipe's."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of GLUE's data to use instead of the recipe's data_dir."}
    )
    text: list[str] | None = field(
        default=None, metadata={"help": "Held-out text to use instead of the recipe's, for causal language models."}
    )
    sts: str | None = field(
        default=None, metadata={"help": "Scored pairs to use instead of the recipe's sts, for embedding models."}
    )
    paraphrases: str | None = field(
        default=None, metadata={"help": "Pairs to use instead of the recipe's paraphrases, for embedding models."}
    )
    retrieval: str | None = field(
        default=None, metadata={"help": "Rows to use instead of the recipe's retrieval, for embedding models."}
    )


def parser() -> OptionParser:
    """Options of the command; the recipe is a word of its own among them."""
    options = OptionParser("compare", DESCRIPTION, [CompareArguments], {}, takes_recipe=False)
    options.usage = "tutorkd compare RECIPE [options]"
    return options
