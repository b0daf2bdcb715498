"""What is told of a fine-tuned classifier that others learn from, by the formulas of ``soft_targets.py``."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tutorkd.errors import UserError
from tutorkd.layer_weights import RelationSettings
from tutorkd.settings import check_temperature


@dataclass
class SoftTargetWeights(RelationSettings):
    """What of a teacher is learned beside the labels, and how much."""

    _argument_group_name = "soft targets"

    soft_target_weight: float = field(
        default=0.5,
        metadata={"help": "Weight w of the soft targets' loss (0 to 1); the labels' loss has the weight 1 - w."},
    )
    temperature: float = field(
        default=2.0,
        metadata={"help": "Temperature of both models' logits in the soft targets' loss; not used for regression."},
    )
    hidden_state_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the loss between the student's hidden states and those of the teacher's matching layers."
        },
    )
    attention_score_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the same loss on attention scores; it needs equal numbers of heads."},
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        if not 0 <= self.soft_target_weight <= 1:
            raise UserError(f"soft_target_weight must be from 0 to 1, not {self.soft_target_weight:g}")
        check_temperature(self.temperature)
        for name in ("hidden_state_weight", "attention_score_weight", "relation_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name):g}")

    def settings(self) -> dict[str, Any]:
        """What a result depends on."""
        layers = ("hidden", "attention", "relation")
        told = {key: value for key, value in asdict(self).items() if value or not key.startswith(layers)}
        if not self.relation_weight:
            told.pop("relation_heads", None)
        return told

    @property
    def matches_layers(self) -> bool:
        """Whether the student learns more than the teacher's answers."""
        return self.hidden_state_weight > 0 or self.attention_score_weight > 0 or self.relation_weight > 0


@dataclass
class SoftTargetArguments(SoftTargetWeights):
    """The same, and from whom."""

    distill_from: str | None = field(
        default=None,
        metadata={"help": "Fine-tuned classifier whose answers the models learn (a path or Hub name)."},
    )


@dataclass
class TaskDistillationArguments(SoftTargetArguments):
    """The same, on text without labels too."""

    unlabelled: str | None = field(
        default=None,
        metadata={
            "help": "Text of your domain without labels, for which the models learn the classifier's answers: a csv, "
            "jsonl or parquet file with the text's columns, or the train split of name:config."
        },
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        super().__post_init__()
        if self.unlabelled is not None and self.distill_from is None:
            raise UserError("text without labels is learned from a classifier's answers: name it with --distill_from")
        if self.unlabelled is not None and self.soft_target_weight == 0:
            raise UserError("text without labels only has soft targets: give a soft_target_weight above 0")
