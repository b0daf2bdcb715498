"""The stage ahead of a task: the student learns a classifier's attention relations from text without labels."""

from pathlib import Path
from typing import Any

from tutorkd.checkpoints import FIRST_STAGE
from tutorkd.errors import UserError
from tutorkd.evaluation.soft_target_arguments import SoftTargetWeights
from tutorkd.evaluation.task_arguments import TaskStudentArguments
from tutorkd.options.recipes import FIRST_STAGE_SECTION, load_recipe
from tutorkd.pretraining.distill_arguments import Distillation, read_distillation

_RECIPE = "minilm-v2"  # what to try first
_ROWS = 32  # a step, of text that is smaller than that which the recipe is for


def first_stage(args: TaskStudentArguments, weights: SoftTargetWeights, section: Any) -> Distillation | None:
    """The run of ``tutorkd distill`` that makes the student, in a folder within ``output_dir``; None without a text.

    Args:
        weights: whose number of relation heads both stages have.
        section: of the recipe; its options of ``tutorkd distill`` replace those of the recipe minilm-v2.

    Raises:
        UserError: for a section that says what follows from the rest, or can't be read.
    """
    if not args.corpus and section is None:
        return None
    section = {} if section is None else section
    if not isinstance(section, dict):
        raise UserError(f"{FIRST_STAGE_SECTION}: must be a mapping of keys to values")
    follows = {
        "teacher": args.teacher,
        "student": args.student,
        "student_layers": args.student_layers,
        "student_hidden_size": args.student_hidden_size,
        "student_heads": args.student_heads,
        "student_intermediate_size": args.student_intermediate_size,
        "output_dir": str(Path(args.output_dir) / FIRST_STAGE),
        "restart": args.restart,
        "dry_run": args.dry_run,
    }
    if said := next((key for key in follows if key in section), None):
        raise UserError(f"{FIRST_STAGE_SECTION}: {said} isn't to be set there: it follows from the rest of the recipe")
    shared = {
        "corpus": args.corpus or None,
        "seed": args.seed,
        "bf16": args.bf16,
        "per_device_train_batch_size": _ROWS,
        "relation_heads": None if "method" in section else weights.relation_heads,  # a constant of the recipe's method
    }
    told = {key: value for key, value in {**shared, **follows}.items() if value is not None}
    return read_distillation([], {**load_recipe(_RECIPE), **told, **section}, FIRST_STAGE_SECTION)
