import copy

import pytest
import tiny
import torch
from transformers.trainer_callback import TrainerState

from tutorkd.comparison.matrix import read_cells
from tutorkd.errors import UserError
from tutorkd.methods import METHODS
from tutorkd.objective import MASKED
from tutorkd.pretraining.distill_arguments import DistillArguments
from tutorkd.pretraining.distillation import make_student
from tutorkd.teacher import load_teacher

RECIPE = {
    "common": {"teacher": "t", "corpus": ["c.txt"], "max_steps": 7, "max_length": 24},
    "variants": ["kd", {"name": "no tutor", "method": "tutor-kd", "tutor": "teacher"}],
    "students": ["half", {"name": "thin", "student": "half", "student_layers": 1}],
    "seeds": [3, 5],
    "evaluate": {"train": "train.csv", "validation": "validation.csv", "max_length": 16},
}


def _recipe(**changes):
    """The recipe with sections changed, or keys of a section that is a mapping; None takes one away."""
    recipe = copy.deepcopy(RECIPE)
    for section, value in changes.items():
        if isinstance(value, dict):
            recipe[section] = {k: v for k, v in {**recipe[section], **value}.items() if v is not None}
        else:
            recipe[section] = value
    return recipe


def test_a_recipe_becomes_variants_by_students_by_seeds_and_references(tmp_path):
    cells = read_cells(RECIPE, "r", tmp_path)
    assert [cell.name for cell in cells if cell.seed == 5] == [
        "teacher-seed5",
        "not-distilled-half-seed5",
        "not-distilled-thin-seed5",
        "kd-half-seed5",
        "no-tutor-half-seed5",
        "kd-thin-seed5",
        "no-tutor-thin-seed5",
    ]
    assert len(cells) == 14
    assert [cell.kind for cell in read_cells(_recipe(references=False), "r", tmp_path)] == ["distilled"] * 8


def test_cells_differ_in_what_the_matrix_says_and_in_nothing_else(tmp_path):
    by_name = {cell.name: cell for cell in read_cells(RECIPE, "r", tmp_path)}
    cell = by_name["no-tutor-thin-seed5"]
    args, text, settings, config = cell.distill.arguments
    assert (args.method, args.student_layers, settings.tutor, text.max_length) == ("tutor-kd", 1, "teacher", 24)
    assert (config.seed, config.data_seed, cell.evaluate[0].seed, config.max_steps) == (5, 5, 5, 7)
    assert config.output_dir == str(tmp_path / "cells" / "no-tutor-thin-seed5" / "student")
    rival = by_name["kd-thin-seed5"]
    constants = {name for method in METHODS.values() for name in method.settings.__dataclass_fields__}
    ours, theirs = (
        {key: value for key, value in each.settings["distill"].items() if key not in constants}
        for each in (cell, rival)
    )
    assert {key for key in ours | theirs if ours.get(key) != theirs.get(key)} == {"method"}
    assert cell.settings["evaluate"] == rival.settings["evaluate"]


def test_variants_may_take_their_mlm_from_models_of_their_own(tmp_path):
    variants = ["tutor-kd", {"name": "two", "mlm_teacher": "b"}]
    cells = read_cells(_recipe(variants=variants, seeds=[0], students=["half"]), "r", tmp_path)
    told = {cell.variant: cell.distill.args.mlm_teacher for cell in cells if cell.kind == "distilled"}
    assert told == {"tutor-kd": None, "two": "b"}


def test_a_budget_in_tokens_becomes_as_many_steps_as_hold_them(tmp_path):
    common = {"max_steps": None, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    for tokens, steps in ((192, 1), (193, 2), (1000, 6)):  # 4 rows x 2 x 24 tokens = 192 a step
        cells = read_cells(_recipe(common=common, tokens=tokens), "r", tmp_path)
        assert {cell.distill.config.max_steps for cell in cells} == {steps}


def test_points_are_the_steps_at_which_trainer_saves(tmp_path):
    for points, steps in ((1, []), (2, [4]), (3, [3, 6]), (7, [1, 2, 3, 4, 5, 6])):  # of 7 steps
        cells = read_cells(_recipe(points=points), "r", tmp_path)
        assert [cell.steps_on_the_way for cell in cells if cell.kind == "distilled"] == [steps] * 8
        assert not any(cell.steps_on_the_way for cell in cells if cell.kind != "distilled")
        config, state = cells[-1].distill.config, TrainerState()
        state.compute_steps(config, config.max_steps)
        assert points == 1 or state.save_steps == steps[0]


def test_a_budget_in_operations_waits_for_what_a_step_costs(tmp_path):
    for flops in (2e13, "2.0e13", 20_000_000_000_000):
        cells = read_cells(_recipe(common={"max_steps": None}, flops=flops), "r", tmp_path)
        assert {cell.flops for cell in cells if cell.kind == "distilled"} == {2e13}
        assert {cell.flops for cell in cells if cell.kind != "distilled"} == {None}
        assert {cell.result for cell in cells if cell.kind == "distilled"} == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"varients": []}, "r: unknown key 'varients'; did you mean variants"),
        ({"common": {"max_step": 3}}, r"r, common \(method kd\): unknown key 'max_step'; did you mean max_steps"),
        ({"variants": [{"method": "kd", "temprature": 2}]}, "variant kd: unknown key 'temprature'; did you mean temp"),
        ({"variants": [{"method": "kd", "max_steps": 9}]}, "variant kd: unknown key 'max_steps'"),
        ({"variants": ["tutor_kd"]}, "there is no method 'tutor_kd'; did you mean tutor-kd"),
        ({"variants": []}, "r, variants: there are none"),
        ({"variants": "kd"}, "r, variants: must be a list"),
        ({"variants": ["kd", {"name": "KD", "method": "kd"}]}, "the name 'KD' is taken"),
        ({"variants": [{"name": "Teacher", "method": "kd"}]}, "the name 'Teacher' is taken"),
        ({"variants": [{"tutor": "teacher"}]}, "r, variants: '' isn't a name"),
        ({"students": [{"student": "half", "student_layer": 2}]}, "did you mean student_layers"),
        ({"seeds": [1, 1]}, "r, seeds: the name '1' is taken"),
        ({"seeds": ["a"]}, "r, seeds: give whole numbers from 0"),
        ({"common": {"seed": 4}}, "r, common .*: seed can't be set there"),
        ({"common": {"max_steps": None}}, "r: give one budget"),
        ({"tokens": 10}, "r: give one budget: max_steps under common, tokens, or flops"),
        ({"flops": 1e9}, "r: give one budget"),
        ({"common": {"max_steps": None}, "tokens": 10, "flops": 1e9}, "r: give one budget"),
        (
            {"common": {"max_steps": None}, "flops": "many"},
            "r, flops: give a number above 0, such as 2.0e13, not 'many'",
        ),
        ({"common": {"max_steps": None}, "flops": 0}, "r, flops: give a number above 0"),
        ({"common": {"max_steps": None}, "flops": True}, "r, flops: give a number above 0"),
        ({"common": {"max_steps": 0}}, "max_steps must be a whole number from 1, not 0"),
        ({"common": {"max_steps": None}, "tokens": "many"}, "r, tokens: give a whole number from 1, not 'many'"),
        ({"common": {"learning_rate": "fast"}}, "invalid float value: 'fast'"),
        ({"common": {"teacher": None}}, "r: no teacher"),
        ({"evaluate": {"train": None}}, "r: no train data"),
        ({"evaluate": {"learning_rat": 1}}, "r, evaluate: unknown key 'learning_rat'; did you mean learning_rate"),
        ({"evaluate": {"seed": 1}}, "r, evaluate: seed can't be set there"),
        ({"references": "teacher"}, "r, references: give true or false"),
        ({"points": 0}, "r, points: give a whole number from 1 to 20, not 0"),
        ({"points": 2.5}, "r, points: give a whole number from 1 to 20, not 2.5"),
        ({"points": 2, "common": {"save_steps": 5}}, "r, common: save_steps can't be set together with points"),
        ({"baseline": "kd2"}, "r, baseline: there is no variant 'kd2'; did you mean kd\\? There are kd, no tutor"),
        ({"baseline": "teacher"}, "r, baseline: there is no variant 'teacher'; there are kd, no tutor"),
        ({"baseline": ["kd"]}, "r, baseline: there is no variant "),
    ],
)
def test_a_recipe_that_can_t_be_meant_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_cells(_recipe(**changes), "r", tmp_path)


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_the_student_starts_the_same_with_and_without_an_mlm_head(init, teacher_folder):
    teacher = load_teacher(str(teacher_folder), torch.float32)
    bodies = []
    for head in (None, MASKED):
        args = DistillArguments(teacher=str(teacher_folder), student="half", student_init=init)
        bodies.append(make_student(args, teacher, tiny.tokenizer(), 1, head).student.base_model.state_dict())
    first = {name: value for name, value in bodies[0].items() if not name.startswith("pooler")}
    for body in bodies:
        assert all(torch.equal(body[name], value) for name, value in first.items())
