"""Who asks for help, or mistypes a flag, doesn't wait for what only a run needs: it isn't loaded."""

import subprocess
import sys

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
TORCH = {"adapt": " torch", "distill": " torch"}
RUN = """
import sys
from tutorkd.cli.main import main
try:
    code = main(sys.argv[2:])
except SystemExit as end:
    code = end.code
print(code, *sorted(set(sys.argv[1].split(",")) & set(sys.modules)), file=sys.stderr)
"""


def _loaded(*argv: str) -> tuple[str, str]:
    """Exit code and heavy modules, and what was said."""
    command = [sys.executable, "-c", RUN, ",".join([*HEAVY, "torch"]), *argv]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    *_, last = done.stderr.splitlines()
    return last, done.stdout + done.stderr


def test_the_list_of_commands_needs_none_of_them_nor_torch():
    assert _loaded("--help")[0] == "0"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_none_of_them_and_torch_only_where_options_are_trainer_s(command):
    last, said = _loaded(command, "--help")
    assert last == f"0{TORCH.get(command, '')}"
    assert f"usage: tutorkd {command}" in said


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


@pytest.mark.parametrize("command", COMMANDS)
def test_nor_does_a_mistyped_flag(command):
    last, said = _loaded(command, *MISTYPED[command])
    assert last == f"2{TORCH.get(command, '')}"
    assert "unknown option" in said


def test_nor_does_a_value_out_of_range():
    assert _loaded("evaluate", "--temperature", "0")[0] == "2"
    assert _loaded("glue", "some-model", "--tasks", "sst3")[0] == "2"


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_options_that_aren_t_trainer_s_need_no_torch_either(command):
    last, said = _loaded(command, "--help")
    assert (last, f"usage: tutorkd {command}" in said) == ("0", True)
    last, said = _loaded(command, "--outptu", "x")
    assert last == "2"
    assert "unknown option --outptu; did you mean --output?" in said


def test_the_file_that_is_asked_for_of_a_data_set_is_the_library_s():
    assert hub_access._FILES["dataset"] == datasets.config.DATASETDICT_INFOS_FILENAME
