"""Recipes of any content: options as they are written, or one line that says what is wrong."""

import math
from functools import cache

import pytest
import yaml
from fuzz import altered, fuzzed, mutated, or_refused, values
from hypothesis import given
from hypothesis import strategies as st

from tutorkd.comparison.matrix import read_cells
from tutorkd.evaluation import arguments as evaluation
from tutorkd.glue import arguments as glue
from tutorkd.options.recipes import load_recipe, recipe_file, recipe_names
from tutorkd.pretraining import adapt_arguments as adaptation
from tutorkd.pretraining import distill_arguments as distillation

COMMANDS = {"adapt": adaptation, "distill": distillation, "evaluate": evaluation, "glue": glue}
PACKAGED = {name: recipe_file(name).read_bytes() for name in recipe_names()}
OF_COMPARE = recipe_names("compare")
# Their values would be looked up on disk or elsewhere, or start something.
LEFT_OUT = {"hub_token", "push_to_hub", "deepspeed", "fsdp_config", "torch_compile", "torch_compile_backend"}


@cache
def parser(command):
    return COMMANDS[command].parser()


@pytest.fixture
def recipe(tmp_path):
    def write(content):
        (tmp_path / "recipe.yaml").write_bytes(content)
        return str(tmp_path / "recipe.yaml")

    return write


def options_or_refused(command, path):
    """The options by name, or None where the recipe was refused in one line that names it."""
    read = or_refused("", parser(command).read, ["--config", path])
    return read and {name: value for part in read for name, value in vars(part).items()}


def assert_as_written(content, options):
    """Text is what the file says, numbers have its digits."""
    written = yaml.load(content, Loader=yaml.BaseLoader)
    pairs = written.items() if isinstance(written, dict) else ()  # a file of nothing, or of null
    for key, text in pairs:
        value = options[key]
        if not isinstance(text, str) or text in ("", "~", "null", "Null", "NULL") or key in ("tasks", "optim_args"):
            continue
        if type(value) is str and not value.startswith("{"):
            assert value.lower() == text.lower() if text.lower() in ("no", "off", "false") else value == text
        elif type(value) in (int, float):
            assert math.isfinite(value)
            assert value == float(text.replace("_", ""))


def keyed(command):
    keys = sorted(set(parser(command).keys) - LEFT_OUT)
    return st.dictionaries(st.sampled_from(keys), values, max_size=3)


@fuzzed(20)
@given(data=st.data(), command=st.sampled_from(sorted(COMMANDS)), flow=st.booleans())
def test_any_values_of_known_keys_are_taken_as_written_or_refused(recipe, data, command, flow):
    chosen = data.draw(keyed(command))
    content = yaml.safe_dump(chosen, default_flow_style=flow, allow_unicode=True).encode("utf-8", "surrogatepass")
    options = options_or_refused(command, recipe(content))
    if options is not None:
        assert_as_written(content, options)


@fuzzed(60)
@given(
    command=st.sampled_from(sorted(COMMANDS)),
    content=mutated(st.sampled_from([PACKAGED["paper-half"], PACKAGED["glue"], b"text_column: a\nseed: 3\n", b""])),
)
def test_any_file_is_read_as_written_or_refused(recipe, command, content):
    options = options_or_refused(command, recipe(content))
    if options is not None:
        assert_as_written(content, options)


def cells_or_refused(path, output_dir):
    return or_refused("recipe.yaml", lambda: read_cells(load_recipe(path), path, output_dir))


NAMED = {"teacher": "t", "corpus": ["c.txt"]}


def small(name):
    """A packaged recipe with one variant, student and seed of each, and all that depends on the machine."""
    content = yaml.safe_load(PACKAGED[name])
    content["common"] = {**content["common"], **NAMED}
    causal = content["common"].get("objective") == "causal"
    data = {"text": ["h.txt"]} if causal else {"train": "t.csv", "validation": "v.csv"}
    content["evaluate"] = {**content["evaluate"], **({} if "tasks" in content["evaluate"] else data)}
    content["variants"] = [content["variants"][0], {"name": "b", "method": "kd"}]
    return {**content, "students": ["half"], "seeds": [0], "references": False}


@fuzzed(20)
@given(content=st.sampled_from(OF_COMPARE).map(small).flatmap(altered))
def test_any_values_in_a_matrix_give_cells_or_are_refused(recipe, tmp_path, content):
    path = recipe(yaml.safe_dump(content).encode("utf-8", "surrogatepass"))
    cells = cells_or_refused(path, tmp_path / "out")
    if cells is not None:
        common = content.get("common", {})
        assert len({cell.folder for cell in cells}) == len(cells)
        assert {cell.distill.config.max_steps for cell in cells} == {common["max_steps"]} or {
            "tokens",
            "flops",
        } & content.keys()


@fuzzed(20)
@given(content=mutated(st.sampled_from(OF_COMPARE).map(lambda name: yaml.safe_dump(small(name)).encode())))
def test_any_file_of_a_matrix_gives_cells_or_is_refused(recipe, tmp_path, content):
    cells = cells_or_refused(recipe(content), tmp_path / "out")
    assert cells is None or len({cell.folder for cell in cells}) == len(cells)
