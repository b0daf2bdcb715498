"""Who asks for help, or mistypes a flag, doesn't wait for what only a run needs: it isn't loaded."""

import json
import subprocess
import sys
from typing import NamedTuple

import datasets
import pytest
from commands import environment

from tutorkd import hub_access
from tutorkd.cli.main import COMMANDS

# Each takes half a second to two.
HEAVY = [
    *("torchao", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "sympy", "sklearn", "scipy", "pandas"),
    *("datasets", "pyarrow", "transformers.modeling_utils", "transformers.trainer", "matplotlib"),
]
# Options of transformers' TrainingArguments are ours there, and it loads torch.
WITH_TORCH = ["adapt", "distill"]
# Runs commands one after another, since a process takes a second to start.
RUN = """
import contextlib, io, json, sys
from tutorkd.cli.main import main
told = []
watched, commands = json.loads(sys.stdin.read())
for argv in commands:
    before, said = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(argv)
        except SystemExit as end:
            code = end.code
    told.append([code, sorted(set(watched) & (set(sys.modules) - before)), said.getvalue()])
print(json.dumps(told))
"""


MISTYPED = {
    "adapt": ["--lerning_rate", "1"],
    "distill": ["--lerning_rate", "1"],
    "evaluate": ["--lerning_rate", "1"],
    "glue": ["some-model", "--lerning_rates", "1"],
    "distill-task": ["--lerning_rate", "1"],
    "predict": ["--max_lenght", "1"],
    "trim": ["--vocab_sizes", "1"],
    "export": ["--max_lenght", "1"],
    "compare": ["some-recipe", "--output_dri", "there"],
    "report": ["some-folder", "--wacth"],
    "inspect": ["--prot", "1"],
    "demo": ["--causla"],
    "env": ["--versions"],
}


OUT_OF_RANGE = [("evaluate", "--temperature", "0"), ("glue", "some-model", "--tasks", "sst3")]


class Told(NamedTuple):
    code: int
    loaded: list[str]  # heavy modules that no command before it has loaded
    said: str


@pytest.fixture(scope="module")
def told() -> dict[tuple[str, ...], Told]:
    """Of each command line what came of it; those that may load torch come last."""
    commands = [("--help",), *OUT_OF_RANGE, *((command, "--outptu", "x") for command in ("report", "inspect"))]
    for command in sorted(COMMANDS, key=lambda command: command in WITH_TORCH):
        commands += [(command, "--help"), (command, *MISTYPED[command])]
    watched = json.dumps([[*HEAVY, "torch"], commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=watched, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {argv: Told(*each) for argv, each in zip(commands, json.loads(done.stdout), strict=True)}


def _allowed(command: str) -> set[str]:
    return {"torch"} if command in WITH_TORCH else set()


def test_the_list_of_commands_needs_none_of_them_nor_torch(told):
    assert told["--help",][:2] == (0, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_none_of_them_and_torch_only_where_options_are_trainer_s(told, command):
    code, loaded, said = told[command, "--help"]
    assert code == 0
    assert set(loaded) <= _allowed(command)
    assert f"usage: tutorkd {command}" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_nor_does_a_mistyped_flag(told, command):
    code, loaded, said = told[command, *MISTYPED[command]]
    assert code == 2
    assert set(loaded) <= _allowed(command)
    assert "unknown option" in said


@pytest.mark.parametrize("argv", OUT_OF_RANGE)
def test_nor_does_a_value_out_of_range(told, argv):
    assert told[argv][:2] == (2, [])


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_a_mistyped_option_behind_no_folder_is_told_first(told, command):
    code, loaded, said = told[command, "--outptu", "x"]
    assert (code, loaded) == (2, [])
    assert "unknown option --outptu; did you mean --output?" in said


def test_the_file_that_is_asked_for_of_a_data_set_is_the_library_s():
    assert hub_access._FILES["dataset"] == datasets.config.DATASETDICT_INFOS_FILENAME
