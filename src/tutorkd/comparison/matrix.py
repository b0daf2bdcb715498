"""From a recipe to cells: which runs a comparison consists of, and what each is told."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutorkd.comparison.arguments import SECTIONS
from tutorkd.comparison.measures import CAUSAL_MODELS, ENCODERS, Measures, Options
from tutorkd.comparison.on_embeddings import EMBEDDINGS, embedding_measures
from tutorkd.comparison.on_glue import GLUE, glue_measures
from tutorkd.errors import UserError, nearest
from tutorkd.evaluation.arguments import NOT_SETTINGS
from tutorkd.files import stored_result
from tutorkd.identity import difference, with_contents
from tutorkd.methods import choose_method, objective_of_method
from tutorkd.objective import CAUSAL, EMBEDDING, Objective
from tutorkd.options.recipes import check_keys
from tutorkd.pretraining import distill_arguments
from tutorkd.pretraining.distill_arguments import DistillArguments, Distillation, objective_named, read_distillation
from tutorkd.run_folder import RunFolder, counted
from tutorkd.settings import resolved

RESULT_FILE = "result.json"
STUDENT_FOLDER = "student"
# What a cell's result holds, and of a distilled student's training what `cell.run_cell` tells of it.
SETTING_TYPES = {"kind": str, "distill": dict[str, Any], "evaluate": dict[str, Any]}
RESULT_TYPES = {"settings": SETTING_TYPES, "training": dict[str, Any]}
LOG_TYPE = list[dict[str, int | float]]
TRAINING_TYPES = {"steps": int, "tokens": int, "seconds": float | None, "flops": int | float, "log": LOG_TYPE}
TEACHER, UNDISTILLED = "teacher", "not distilled"

_STUDENT_KEYS = [field.name for field in dataclasses.fields(DistillArguments) if field.name.startswith("student")]
# What differs from cell to cell, or is the command's to say.
_NOT_COMMON = {*_STUDENT_KEYS, "method", "seed", "data_seed", "output_dir", "restart", "dry_run", "drop_checkpoints"}
_SAVING = ("save_steps", "save_total_limit", "save_strategy", "save_only_model")
_MOST_POINTS = 20
_NOT_EVALUATE = {*NOT_SETTINGS, "seed", "teacher"}


@dataclass(frozen=True)
class Cell:
    """One run of a comparison, or one of its references.

    Attributes:
        kind: a distilled student, or a reference: the student as it starts, or the teacher.
        variant: what the method and its changed constants are called.
        student: the student's name; empty for the teacher.
        folder: of the cell.
        distill: options of ``tutorkd distill``; of the undistilled student, whatever shares its start.
        measures: what it is measured by.
        evaluate: options that say how.
        flops: operations that its training may take, where these aren't steps yet (``budget.in_steps``).
        points: how often its student is measured on the way, the end included, at equal distances.
    """

    kind: Literal["distilled", "undistilled", "teacher"]
    variant: str
    student: str
    seed: int
    folder: Path
    distill: Distillation
    measures: Measures
    evaluate: Options
    flops: float | None = None
    points: int = 1

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def steps_on_the_way(self) -> list[int]:
        """After which steps its student is measured, the end left out: there it has a checkpoint."""
        if self.points == 1:
            return []
        steps, share = self.distill.config.max_steps, self.distill.config.save_steps
        each = math.ceil(steps * share)  # as Trainer computes it
        return list(range(each, steps, each))

    @property
    def settings(self) -> dict[str, Any]:
        """What its result depends on, in plain types.

        Raises:
            UserError: if its folder holds a student that was distilled with other settings.
        """
        options = self.distill
        if self.kind == "distilled":
            distill = RunFolder(self.folder / STUDENT_FOLDER, options.arguments, restart=False).settings
        elif self.kind == "undistilled" and options.objective is EMBEDDING:
            distill = counted(options.arguments)  # a dense layer of it finds its start in the text
        else:
            start = resolved([options.args]) if self.kind == "undistilled" else {}
            of_student = {key: value for key, value in start.items() if key.startswith("student")}
            distill = with_contents({"teacher": options.args.teacher, **of_student})
        told = {key: value for part in self.evaluate for key, value in dataclasses.asdict(part).items()}
        known = {*self.measures.section.keys, "seed"}
        evaluate = with_contents({key: value for key, value in told.items() if key in known})
        return json.loads(json.dumps({"kind": self.kind, "distill": distill, "evaluate": evaluate}))

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result, if it is finished and had these settings."""
        types = {**RESULT_TYPES, "evaluation": self.measures.types}
        types |= {"training": TRAINING_TYPES} if self.kind == "distilled" else {}
        if steps := self.steps_on_the_way:
            types["on_the_way"] = {str(step): {"flops": float, "evaluation": self.measures.types} for step in steps}
        result = stored_result(self.folder / RESULT_FILE, types) if self.flops is None else None
        if result is None:
            return None
        there, now = result["settings"], self.settings
        if there["kind"] != now["kind"] or any(difference(there[key], now[key]) for key in ("distill", "evaluate")):
            return None
        return result if is_log(result["training"].get("log", [])) else None


def is_log(entries: Sequence[Mapping[str, float]]) -> bool:
    """Whether each entry of a log, which is of `LOG_TYPE`, says its step."""
    return all("step" in entry for entry in entries)


def read_cells(recipe: Mapping[str, Any], where: str, output_dir: str | Path) -> list[Cell]:
    """The cells of a recipe: references first, then seed by seed, so that all variants advance together.

    Args:
        recipe: sections ``common`` (keys of ``tutorkd distill``), ``tokens`` or ``flops`` (a budget instead of
            ``max_steps``), ``variants``, ``students``, ``seeds``, ``evaluate`` (keys of ``tutorkd evaluate``, or of
            ``tutorkd glue``), ``references``, ``baseline`` (a variant that the others are compared with), ``points``
            (how often a student is measured on its way).
        where: what messages call the recipe.
        output_dir: of the comparison; cells are folders in its folder ``cells``.

    Raises:
        UserError: for an unknown key, named with the nearest valid one, a value of the wrong type, or a matrix whose
            cells wouldn't be comparable.
    """
    check_keys(recipe, SECTIONS, where)
    common = _mapping(recipe.get("common"), f"{where}, common")
    evaluate = _mapping(recipe.get("evaluate"), f"{where}, evaluate")
    variants = [_named(item, "method", f"{where}, variants") for item in _list(recipe, "variants", [], where)]
    students = [_named(item, "student", f"{where}, students") for item in _list(recipe, "students", ["thin"], where)]
    seeds = _list(recipe, "seeds", [0], where)
    if any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"{where}, seeds: give whole numbers from 0, not {seeds}")
    points = recipe.get("points", 1)
    if type(points) is not int or not 1 <= points <= _MOST_POINTS:
        raise UserError(f"{where}, points: give a whole number from 1 to {_MOST_POINTS}, not {points!r}")
    if points > 1 and (key := next((key for key in _SAVING if key in common), None)):
        raise UserError(f"{where}, common: {key} can't be set together with points, which says when students are saved")
    references = recipe.get("references", True)
    if not isinstance(references, bool):
        raise UserError(f"{where}, references: give true or false, not {references!r}")
    reserved = {TEACHER, UNDISTILLED} if references else set()
    for section, names in (
        ("variants", [variant["name"] for variant in variants]),
        ("students", [student["name"] for student in students]),
        ("seeds", [str(seed) for seed in seeds]),
    ):
        _check_names(names, reserved if section == "variants" else set(), f"{where}, {section}")
    if (baseline := recipe.get("baseline")) is not None and baseline not in (names := [v["name"] for v in variants]):
        near = nearest(str(baseline), names, then=f"there are {', '.join(names)}")
        raise UserError(f"{where}, baseline: there is no variant {baseline!r}{near}")
    if not common.get("teacher"):
        raise UserError(f"{where}: no teacher: name it under common or with --teacher")
    told = [objective_of_method(str(variant.get("method"))) for variant in variants]
    objective = next(filter(None, told), None) or objective_named(common)
    measures = _measures(evaluate, objective, f"{where}, evaluate")
    for variant in variants:
        _check_variant(variant, common, objective, where)
    for student in students:
        _check_keys(student, ["name", *_STUDENT_KEYS], f"{where}, student {student['name']}")
    budget, flops = _budget(recipe, {**common, "method": variants[0]["method"]}, objective, where)

    def cell(kind: Any, variant: dict[str, Any], student: dict[str, Any], seed: int) -> Cell:
        title = {"distilled": variant["name"], "undistilled": UNDISTILLED, "teacher": TEACHER}[kind]
        name = "" if kind == "teacher" else student["name"]
        folder = Path(output_dir) / "cells" / slug("-".join(filter(None, (title, name, f"seed{seed}"))))
        settings = {**common, **budget, **_without_name(variant), **_without_name(student)}
        settings |= {"seed": seed, "data_seed": seed, "output_dir": str(folder / STUDENT_FOLDER)}
        if points > 1:  # each checkpoint stays, those of an interruption among them
            settings |= {"save_steps": 1 / points, "save_total_limit": 10 * _MOST_POINTS}
        about = f"{where}, variant {variant['name']}, student {student['name']}"
        options = read_distillation([], settings, about)
        told = {"teacher": options.args.teacher, "seed": seed, "output_dir": str(folder / "evaluation")}
        parser = measures.section.parser()
        told = {**evaluate, **{key: value for key, value in told.items() if key in parser.keys}}
        read = parser.read([], told, f"{where}, evaluate")
        trained = kind == "distilled"
        left, often = flops if trained else None, points if trained else 1
        return Cell(kind, title, name, seed, folder, options, measures, read, left, often)

    cells = []
    for seed in seeds:
        if references and (seed == seeds[0] or measures.repeated is None):
            cells.append(cell("teacher", variants[0], students[0], seed))
            cells += [cell("undistilled", variants[0], student, seed) for student in students]
        cells += [cell("distilled", variant, student, seed) for student in students for variant in variants]
    if not cells[0].distill.text.corpus:
        raise UserError(f"{where}: no text: name it under common or with --corpus")
    for keys, missing in measures.section.data.items():
        if not any(evaluate.get(key) for key in keys):
            raise UserError(f"{where}: {missing}")
    return cells


def _measures(evaluate: Mapping[str, Any], objective: Objective, where: str) -> Measures:
    """What the section ``evaluate`` asks for: causal and embedding models have one way, encoders GLUE where tasks are
    named.

    Raises:
        UserError: for a key that doesn't tell how these models are measured, saying so where it is for others.
    """
    ways = [ENCODERS.section, GLUE, CAUSAL_MODELS.section, EMBEDDINGS]
    of_encoders = GLUE if "tasks" in evaluate else ENCODERS.section
    section = {"causal": CAUSAL_MODELS.section, "embedding": EMBEDDINGS}.get(objective.name, of_encoders)
    for key in evaluate:
        others = [way.noun for way in ways if key in way.keys]
        if others and key not in section.keys:
            data = " and ".join(" or ".join(keys) for keys in section.data)
            raise UserError(f"{where}: {key} is for {' and '.join(others)}; {section.noun} are compared on {data}")
    _check_keys(evaluate, section.keys, where, _NOT_EVALUATE - {*section.keys})
    if section is GLUE:
        (args,) = GLUE.parser().read([], evaluate, where)
        return glue_measures(args)
    if section is EMBEDDINGS:
        *_, embedding = EMBEDDINGS.parser().read([], evaluate, where)
        return embedding_measures(embedding)
    return CAUSAL_MODELS if objective is CAUSAL else ENCODERS


def _check_variant(variant: dict[str, Any], common: Mapping[str, Any], objective: Objective, where: str) -> None:
    """A variant changes constants of its method, where its MLM comes from and the learning rate; ``common`` the rest.

    Raises:
        UserError: for another key.
    """
    about = f"{where}, variant {variant['name']}"
    method = variant.setdefault("method", "tutor-kd")
    try:
        constants = [field.name for field in dataclasses.fields(choose_method(str(method), objective).settings)]
    except UserError as error:
        raise UserError(f"{about}: {error}") from error
    _check_keys(variant, ["name", "method", "mlm_teacher", "learning_rate", *constants], about)
    _check_keys(
        common, distill_arguments.parser(method, objective).keys, f"{where}, common (method {method})", _NOT_COMMON
    )


def _budget(
    recipe: Mapping[str, Any], common: Mapping[str, Any], objective: Objective, where: str
) -> tuple[dict[str, int], float | None]:
    """The budget that all cells have: as ``max_steps``; or, beside one step that stands there meanwhile, in operations.

    Raises:
        UserError: unless exactly one budget is given.
    """
    given = [
        *(key for key in ("tokens", "flops") if recipe.get(key) is not None),
        *(["max_steps"] * ("max_steps" in common)),
    ]
    if len(given) != 1:
        raise UserError(f"{where}: give one budget: max_steps under common, tokens, or flops")
    if given == ["flops"]:
        try:
            flops = float(str(recipe["flops"]))  # to YAML, 2.0e13 is text
        except ValueError:
            flops = math.nan
        if not 0 < flops < math.inf:
            raise UserError(f"{where}, flops: give a number above 0, such as 2.0e13, not {recipe['flops']!r}")
        return {"max_steps": 1}, flops
    if given == ["max_steps"]:
        steps = common["max_steps"]
        if type(steps) is not int or steps < 1:
            raise UserError(f"{where}, common: max_steps must be a whole number from 1, not {steps!r}")
        return {}, None
    tokens = recipe["tokens"]
    if type(tokens) is not int or tokens < 1:
        raise UserError(f"{where}, tokens: give a whole number from 1, not {tokens!r}")
    known = distill_arguments.parser(str(common["method"]), objective).keys
    settings = {key: value for key, value in common.items() if key in known}
    options = read_distillation([], settings, f"{where}, common")
    step = options.config.per_device_train_batch_size * options.config.gradient_accumulation_steps
    step *= options.text.max_length
    return {"max_steps": math.ceil(tokens / step)}, None


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str, refused: set[str] | None = None) -> None:
    known = [key for key in known if key not in (refused or set())]
    for key in given:
        if key in (refused or set()):
            raise UserError(f"{where}: {key} can't be set there; the comparison sets it for each cell")
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")


def _check_names(names: Sequence[str], reserved: set[str], where: str) -> None:
    """Names are told apart as folders too."""
    if not names:
        raise UserError(f"{where}: there are none; name one or more")
    seen = {slug(name): name for name in reserved}
    for name in names:
        if not slug(name):
            raise UserError(f"{where}: {name!r} isn't a name; names need letters or digits")
        if slug(name) in seen:
            raise UserError(f"{where}: the name {name!r} is taken; give each a name of its own")
        seen[slug(name)] = name


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise UserError(f"{where}: must be a mapping of keys to values")
    return dict(value or {})


def _list(recipe: Mapping[str, Any], section: str, default: list[Any], where: str) -> list[Any]:
    value = recipe.get(section, default)
    if not isinstance(value, list):
        raise UserError(f"{where}, {section}: must be a list")
    return value


def _named(item: Any, key: str, where: str) -> dict[str, Any]:
    """A mapping with a name; a word alone stands for both."""
    if isinstance(item, str):
        return {"name": item, key: item}
    named = _mapping(item, where)
    name = named.get("name") or named.get(key) or ""
    if type(name) not in (str, int):
        raise UserError(f"{where}: YAML doesn't read the name {name!r} as text; put it in quotes")
    return {**named, "name": str(name)}


def _without_name(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "name"}


def slug(name: str) -> str:
    """A folder name."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")
