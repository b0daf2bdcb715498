"""The tutor of a run at each point that the run kept, and the options that it was trained with."""

import filecmp
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from tutorkd.checkpoints import checkpoints, defect, step_of
from tutorkd.errors import UserError
from tutorkd.files import stored_result
from tutorkd.identity import with_contents
from tutorkd.inspection.arguments import InspectArguments
from tutorkd.methods.tutor_kd import TutorKDSettings
from tutorkd.objective import CAUSAL
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.pretraining.distill_arguments import DistillArguments, Distillation, objective_named, read_distillation
from tutorkd.run_folder import FINISHED_FILE, RUN_FILE, lacking, run_settings
from tutorkd.saving import HEADS_FILE
from tutorkd.settings import own_fields

# Of a run's other settings those that decide on what is seen; the rest is about training, and about its machine.
_OF_TRAINING = {"bf16", "data_seed", "mlm_probability", "seed", "teacher_dtype"}


class State(NamedTuple):
    """Where a run kept its tutor."""

    name: str
    step: int
    folder: Path


def states_of(folder: Path) -> list[State]:
    """The whole checkpoints of a run by their steps, and its end; a checkpoint that is the end counts once.

    Raises:
        UserError: if it kept no tutor.
    """
    kept = [State(f"step {step_of(each):,}", step_of(each), each) for each in checkpoints(folder) if not defect(each)]
    finished = None if lacking(folder) else stored_result(folder / FINISHED_FILE, {"global_step": int})
    if finished is not None:
        end = State(f"step {finished['global_step']:,} (the end)", finished["global_step"], folder)
        kept = [state for state in kept if not _same_heads(state.folder, folder)] + [end]
    if kept := [state for state in kept if (state.folder / HEADS_FILE).is_file()]:
        return kept
    raise UserError(
        f"{folder} keeps no tutor: {HEADS_FILE} is neither beside a finished student nor in a checkpoint; name the "
        "folder that tutorkd distill wrote, or run it again, where --save_steps and --save_total_limit say how many "
        "checkpoints are kept"
    )


def _same_heads(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first / HEADS_FILE, second / HEADS_FILE, shallow=False)
    except OSError:  # one of them has none
        return False


def options_of(args: InspectArguments) -> Distillation:
    """The options that a run of Tutor-KD was trained with, as far as they decide on what is seen.

    Whether code of the teacher's may be run is said by whoever looks: a folder can be anybody's.

    Raises:
        UserError: if the folder isn't that of such a run, or its teacher isn't what it was.
    """
    folder = Path(args.run)
    if not (folder / RUN_FILE).is_file():
        raise UserError(f"{folder} isn't the folder of a run: there is no {RUN_FILE}; name what tutorkd distill wrote")
    noted = run_settings(folder)
    if noted.get("method") != "tutor-kd":
        what = f"a run of --method {noted['method']}" if "method" in noted else "not a run of tutorkd distill"
        raise UserError(f"{folder} is {what}, in which there is no tutor; inspect is for --method tutor-kd")
    moved = {"trust_remote_code": args.trust_remote_code} | ({"teacher": args.teacher} if args.teacher else {})
    if objective_named(noted | moved) is CAUSAL:
        raise UserError(f"{folder} is a run of a causal language model; inspect only shows the tutors of encoders")
    known = _OF_TRAINING.union(*map(own_fields, (DistillArguments, CorpusArguments, TutorKDSettings)))
    recipe = {key: value for key, value in noted.items() if key in known and value is not None}
    fixed = {"output_dir": args.run, "eval_strategy": "no"}
    options = read_distillation([], recipe | moved | fixed, str(folder / RUN_FILE))
    if options.settings.tutor != "learned":
        raise UserError(
            f"{folder} is a run with --tutor {options.settings.tutor}, in which no tutor learns; inspect is for "
            "--tutor learned, the default"
        )
    _check_teacher(noted, options.args)
    return options


def _check_teacher(noted: Mapping[str, Any], args: DistillArguments) -> None:
    """Refuse figures of another teacher under the same name."""
    found = with_contents({"teacher": args.teacher, "mlm_teacher": args.mlm_teacher})
    for role, key in product(("teacher", "mlm_teacher"), ("sha256", "revision")):
        then, now = (each.get(f"{role}_{key}") for each in (noted, found))
        if then and now and then != now:
            raise UserError(
                f"the {role} {found[role]} has changed since the run, so the figures would be others; put back what it "
                "was" + ", or name that with --teacher" * (role == "teacher")
            )
