"""A run of ``tutorkd distill`` or ``tutorkd adapt``, or of a Trainer in Python."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from tutorkd import probe
from tutorkd.callbacks import SKIPPED_STEPS, TOKENS_PER_SECOND
from tutorkd.checkpoints import FIRST_STAGE, checkpoints
from tutorkd.files import stored_result
from tutorkd.locks import in_use
from tutorkd.methods import ALL_METHODS
from tutorkd.options.parser import OptionParser
from tutorkd.options.recipes import FIRST_STAGE_SECTION
from tutorkd.pretraining import adapt_arguments, distill_arguments
from tutorkd.report import device, log, settings
from tutorkd.report.markdown import rendered
from tutorkd.report.section import FINISHED, RUNNING, STOPPED, Part, Section, table
from tutorkd.run_folder import FINISHED_FILE, RUN_FILE, lacking, run_settings
from tutorkd.step import LOSS

STATE_TYPES = {"global_step": int, "max_steps": int, "log_history": log.LOG_TYPE}
_CARD = "README.md"
_ONLY = "run"  # the one series of its curves
_EXTREMES = ("figure", "in the log", "first", "last", "lowest", "highest")
# What isn't noted in run.yaml, since the result doesn't depend on it, and stands beside the log.
_OF_LOG = ("logging_steps", "eval_steps", "save_steps")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run: of a command, or of a Trainer in Python that left its state."""
    return (folder / RUN_FILE).is_file() or state_of(folder)["global_step"] > 0


def section(folder: Path, running: bool) -> Section:
    """What is known of a run.

    Args:
        running: whether a process is at the folder around it.
    """
    noted, state = run_settings(folder), state_of(folder)
    finished = lacking(folder) is None
    if not (folder / RUN_FILE).is_file():
        return _in_python(folder, state, finished, running)
    parser, first = parser_of(noted), _first_stage(folder, noted)
    adapted = parser.prog.endswith("adapt")
    curves = log.curves_of(state["log_history"])
    method = str(noted.get("method"))
    titles = {name: each.title for name, each in ALL_METHODS.items()}
    kind = "adaptation" if adapted else f"distillation, {titles.get(method, method)}"
    kind += f" after {titles.get(first['method'], first['method'])}" if first else ""
    roles = ("model", "config_name") if adapted else ("teacher", "student")
    named = {**noted, "student": first["student"]} if first else noted
    changed, *others = settings.parts(noted, parser)
    return Section(
        kind=kind,
        title=" → ".join(_short(named[role]) for role in roles if named.get(role)),
        **_progress(folder, state, finished, running),
        tiles=_tiles(curves, folder),
        parts=[
            changed,
            *_figures(folder, curves),
            *(_curves_of_first_stage(folder) if first else []),
            *others,
            settings.again(
                _two_stages(folder, noted, first, state) if first else _command(folder, noted, state, parser)
            ),
            *_environment(folder, noted),
            *_card(folder),
        ],
    )


def _in_python(folder: Path, state: Mapping[str, Any], finished: bool, running: bool) -> Section:
    """What is known of a run whose settings stand in a script."""
    curves = log.curves_of(state["log_history"])
    finished = finished or 0 < state["max_steps"] <= state["global_step"]  # a script needn't save its state
    return Section(
        kind="training in Python",
        title=folder.absolute().name,
        **_progress(folder, state, finished, running),
        tiles=_tiles(curves, folder),
        parts=[*_figures(folder, curves), *_environment(folder, {}), *_card(folder)],
    )


def _figures(folder: Path, curves: Mapping[str, log.Curve]) -> list[Part]:
    """Curves, their ends, and what is known of files for devices."""
    ends = table("First to last", _EXTREMES, log.first_to_last(curves), words=2)
    return [*log.parts({_ONLY: [curves]}), *ends, *device.parts(folder)]


def _progress(folder: Path, state: Mapping[str, Any], finished: bool, running: bool) -> dict[str, str]:
    """A section's state, and how far the run came."""
    steps = f"step {state['global_step']:,} of {state['max_steps']:,}" if state["max_steps"] else "no step saved yet"
    return {
        "state": FINISHED if finished else RUNNING if running or in_use(folder) else STOPPED,
        "progress": f"{state['global_step']:,} steps" if finished else f"{steps}, where its last checkpoint is",
    }


def _short(name: Any) -> str:
    """A Hub name as it is; of a path the last parts."""
    parts = Path(str(name)).parts
    return str(name) if len(parts) <= 2 and not str(name).startswith((".", "/")) else parts[-1]


def state_of(folder: Path) -> dict[str, Any]:
    """Steps and log of a finished run, or else of its last checkpoint that tells them."""
    for place in (folder, *reversed(checkpoints(folder))):
        if (state := stored_result(place / FINISHED_FILE, STATE_TYPES)) is not None:
            return state
    return {"global_step": 0, "max_steps": 0, "log_history": []}


def parser_of(noted: Mapping[str, Any]) -> OptionParser:
    """Options of the command that made the run: those that know most of its settings."""
    if "teacher" not in noted and "model" in noted:
        return adapt_arguments.parser()
    choices = distill_arguments.parsers(str(noted.get("method")))
    return max(choices, key=lambda parser: len(set(parser.keys) & noted.keys()))


def _tiles(curves: Mapping[str, log.Curve], folder: Path) -> list[tuple[str, str]]:
    tiles = []
    for figure in (LOSS, *probe.FIGURES):
        if values := [value for _, value in curves.get(figure.name, [])]:
            ends = values[:1] if len(values) == 1 else [values[0], values[-1]]
            tiles.append((figure.label, " → ".join(f"{value:.3g}" for value in ends)))
    if speeds := sorted(value for _, value in curves.get(TOKENS_PER_SECOND.name, [])):
        tiles.append(("tokens/s, median", f"{speeds[len(speeds) // 2]:,.0f}"))
    if skipped := curves.get(SKIPPED_STEPS.name):
        tiles.append(("steps skipped", f"{skipped[-1][1]:,.0f}"))
    parameters, size = weights(folder)
    if parameters:
        tiles += [("parameters", f"{parameters / 1e6:.1f} M"), ("size on disk", f"{size / 1e6:.1f} MB")]
    return tiles


def weights(folder: Path) -> tuple[int, int]:
    """Parameters of a model in a folder, and the bytes of their files; shared ones count once, as they are saved."""
    parameters = size = 0
    for file in folder.glob("model*.safetensors"):
        try:
            with safe_open(file, "pt") as tensors:
                parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
            size += file.stat().st_size
        except (OSError, SafetensorError):
            return 0, 0
    return parameters, size


def _command(folder: Path, noted: Mapping[str, Any], state: Mapping[str, Any], parser: OptionParser) -> str:
    processes = noted.get("processes")
    start = ["tutorkd"]
    if isinstance(processes, int) and processes > 1:
        start = ["torchrun", "--nproc_per_node", str(processes), "-m", "tutorkd.cli.main"]
    asked = {**noted, **_of_log(state), **_kept(folder), "output_dir": str(folder)}
    return settings.command([*start, parser.prog.split()[-1]], asked, parser)


def _first_stage(folder: Path, noted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the first stage, where a recipe's made the student that this run went on with; else nothing."""
    went_on = Path(str(noted.get("student"))).name == FIRST_STAGE
    found = run_settings(folder / FIRST_STAGE) if went_on else {}
    return found if {"method", "student"} <= found.keys() else {}


def _curves_of_first_stage(folder: Path) -> list[Part]:
    curves = log.curves_of(state_of(folder / FIRST_STAGE)["log_history"])
    return [replace(part, title=f"First stage: {part.title}") for part in log.parts({_ONLY: [curves]})]


def _two_stages(folder: Path, noted: Mapping[str, Any], first: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Lines for the shell that write a recipe of both stages, and run it."""
    of_student = {key: value for key, value in first.items() if key.startswith("student")}
    asked = {**noted, **of_student, **_of_log(state), **_kept(folder)}
    recipe = {**settings.changed(asked, parser_of(noted)), "output_dir": str(folder)}
    parser, own = parser_of(first), {**first, **_of_log(state_of(folder / FIRST_STAGE)), **_kept(folder / FIRST_STAGE)}
    *_, of_method = parser.dataclass_types
    constants = {field.name for field in fields(of_method)}  # which the stages don't share
    section = {"method": first["method"]}
    for key in parser.keys:
        default = parser.get_default(key)
        shared = default if key in constants else asked.get(key, default)
        if key != "output_dir" and (value := own.get(key, default)) not in (None, shared):
            section[key] = value
    text = yaml.safe_dump({FIRST_STAGE_SECTION: section, **recipe}, sort_keys=False, allow_unicode=True)
    file = shlex.quote(f"{folder.name}.yaml")
    return f"cat > {file} <<'END'\n{text}END\ntutorkd distill --config {file}"


def _of_log(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: state[key] for key in _OF_LOG if key in state}


def _kept(folder: Path) -> dict[str, Any]:
    """What else isn't noted in run.yaml, since the result doesn't depend on it, by what it left."""
    return {"save_initial_student": True} if (folder / distill_arguments.INITIAL_STUDENT).is_dir() else {}


def _environment(folder: Path, noted: Mapping[str, Any]) -> list[Part]:
    config = stored_result(folder / "config.json", {}) or {}
    found = [
        ("processes", noted.get("processes")),
        ("transformers", config.get("transformers_version")),
        ("model type", config.get("model_type")),
        ("number format on disk", config.get("dtype")),
    ]
    note = "A run's folder doesn't name its machine."
    return table("Environment", ("", ""), settings.facts(found), note=note)


def _card(folder: Path) -> list[Part]:
    """The model card, as it is."""
    try:
        text = ModelCard((folder / _CARD).read_text(encoding="utf-8"), ignore_metadata_errors=True).text
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [Part("Model card", text=rendered(text), folded=True)]
