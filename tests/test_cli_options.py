"""Options: defaults < recipe < flags, mistakes in either, help, packaged recipes, and the plan of --dry_run."""

import dataclasses
import re
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from commands import complete, fail, save, save_corpus

from tutorkd.cli.main import COMMANDS, main
from tutorkd.config import PretrainingConfig
from tutorkd.cost import share_of_rate
from tutorkd.evaluation import arguments as evaluation
from tutorkd.methods import methods_for
from tutorkd.objective import CAUSAL, EMBEDDING, MASKED
from tutorkd.options.parser import OptionParser
from tutorkd.options.recipes import load_recipe, recipe_file, recipe_names
from tutorkd.options.trainer_options import COMMON, REFUSED
from tutorkd.pretraining import adapt_arguments as adaptation
from tutorkd.pretraining import distill_arguments as distillation
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.settings import own_fields

# Ten lines that stand for ten thousand million values.
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11))


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns the flags that name it."""

    def write(text: str) -> list[str]:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return ["--config", str(tmp_path / "recipe.yaml")]

    return write


def read(*argv: str, method: str = "tutor-kd") -> dict:
    """All settings of distill, by name."""
    return {key: value for part in distillation.parser(method).read(argv) for key, value in vars(part).items()}


# Precedence and types


def test_flags_override_the_recipe_and_the_recipe_the_defaults(recipe):
    flags = recipe("max_length: 64\ntop_k: 3\nseed: 7\n")
    values = read(*flags, "--top-k", "5", "--seed=8")
    assert (values["mlm_probability"], values["max_length"], values["top_k"], values["seed"]) == (0.15, 64, 5, 8)


def test_numbers_booleans_lists_mappings_and_nothing_in_yaml(recipe):
    values = read(
        *recipe(
            "learning_rate: 5e-4\nweight_decay: 1\nmax_steps: 1_000\nstreaming: yes\nremove_unused_columns: false\n"
            "corpus: [a.txt, 'b*.txt']\ncorpus_weights: [1, 0.5]\nlr_scheduler_kwargs: {power: 2.0}\nnum_proc: null\n"
            "eval_strategy: no\nsave_strategy: 'no'\ntext_column: 2024\ncache_dir: --odd\n"
        )
    )
    expected = {
        **{"learning_rate": 5e-4, "weight_decay": 1.0, "max_steps": 1000, "streaming": True, "num_proc": None},
        **{"remove_unused_columns": False, "corpus": ["a.txt", "b*.txt"], "corpus_weights": [1.0, 0.5]},
        **{"lr_scheduler_kwargs": {"power": 2.0}, "text_column": "2024", "cache_dir": "--odd"},
        **{"eval_strategy": "no", "save_strategy": "no"},
    }
    assert {key: values[key] for key in expected} == expected
    assert [type(values[key]) for key in ("weight_decay", "max_steps")] == [float, int]


def test_aliases_and_merged_mappings_are_read(recipe):
    text = "corpus: &names [a.txt]\nreport_to: none\nlr_scheduler_kwargs: &base {power: 2.0}\n"
    values = read(*recipe(text + "optim_args: 'a=1'\n<<: {seed: 5}\ncorpus_weights: [1.0]\n"))
    assert (values["corpus"], values["seed"], values["lr_scheduler_kwargs"]) == (["a.txt"], 5, {"power": 2.0})


def test_paths_in_the_home_folder_are_found_in_recipes_and_behind_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.yaml").write_text("teacher: ~/teacher\ncorpus: [~/a.txt, b~/c.txt]\n")
    values = read("--config=~/r.yaml", "--cache_dir=~/cache")
    assert values["corpus"] == [f"{tmp_path}/a.txt", "b~/c.txt"]
    assert (values["teacher"], values["cache_dir"]) == (f"{tmp_path}/teacher", f"{tmp_path}/cache")


def test_one_value_will_do_for_a_list(recipe):
    assert read(*recipe("corpus: a.txt"))["corpus"] == ["a.txt"]


def test_a_repeated_flag_makes_a_list_that_replaces_the_recipe_s(recipe):
    flags = recipe("corpus: [a.txt, b.txt]\ncorpus_weights: [1, 2]")
    assert read(*flags)["corpus"] == ["a.txt", "b.txt"]
    assert read(*flags, "--corpus", "c.txt")["corpus"] == ["c.txt"]
    values = read(*flags, "--corpus", "c.txt", "--seed", "1", "--corpus", "d.txt", "e.txt")
    assert values["corpus"] == ["c.txt", "d.txt", "e.txt"]
    assert values["corpus_weights"] == [1.0, 2.0]


def test_a_flag_without_a_value_is_true_and_any_can_be_false():
    assert read("--streaming")["streaming"] is True
    assert read("--streaming", "false")["streaming"] is False
    assert read()["streaming"] is False


def test_an_explicit_fp16_takes_the_place_of_a_machine_s_bf16(recipe, monkeypatch):
    monkeypatch.setattr(distillation, "prefers_bfloat16", lambda: True)
    assert read()["bf16"] is True
    for flags in (["--fp16"], recipe("fp16: true"), [*recipe("fp16: true"), "--bf16", "false"]):
        values = read(*flags)
        assert (values["fp16"], values["bf16"]) == (True, False)


@pytest.mark.parametrize("text", ["fp16: true\nbf16: true", "bf16: true"])
def test_an_explicit_fp16_and_bf16_contradict_one_another(recipe, capfd, text):
    assert "At most one of fp16 and bf16" in fail(capfd, "distill", *recipe(text), "--fp16")
    assert "At most one of fp16 and bf16" in fail(capfd, "adapt", "--fp16", "--bf16")


# Mistakes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-lenght", "3"], "tutorkd distill: unknown option --max-lenght; did you mean --max-length?"),
        (
            ["--method", "tutor-kd", "--samplign=greedy"],
            "unknown option --samplign=greedy; did you mean --sampling?",
        ),
        (["--qqqqqqqq"], "tutorkd distill: unknown option --qqqqqqqq"),
        (["corpus.txt"], "tutorkd distill: 'corpus.txt' stands behind no option: write the name of its option before"),
        (["--student", "half", "haf"], "tutorkd distill: --student takes one value, so 'haf' is too much; a value"),
        (["--corpus", "a", "--student=half", "haf"], "--student takes one value, so 'haf' is too much"),
        (["--max", "3"], "tutorkd distill: unknown option --max"),
        (["--max_length", "long"], "argument --max_length/--max-length: invalid int value: 'long'"),
        (["--max_length"], "argument --max_length/--max-length: expected one argument"),
        (["--learning_rate", "fast"], "argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        (["--streaming", "perhaps"], "argument --streaming: Truthy value expected: got perhaps"),
        (
            ["--method", "tutor-kd", "--sampling", "random"],
            "argument --sampling: invalid choice: 'random' (choose from",
        ),
        (["--method", "kdd"], "there is no method 'kdd'; did you mean kd? Choose one of tutor-kd, "),
        (["--method"], "argument --method: expected one argument"),
        (["--divergence", "js"], "--divergence is an option of --method tutor-kd or kd for causal language models"),
        (["--text_unit", "text"], "--text_unit is an option of --method embedding for embedding models"),
        (["--method", "kd", "--policy-weight=1"], "--policy-weight is an option of --method tutor-kd, not of kd"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", "paper-hlaf"], "there is no recipe paper-hlaf; did you mean paper-half? Give a path or "),
        (
            ["--config", "/no/where.yaml"],
            "there is no recipe /no/where.yaml; give a path or one of embedding, ",
        ),
    ],
)
def test_bad_flags(capfd, flags, message):
    assert message in fail(capfd, "distill", *flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_lenght: 3", "recipe.yaml: unknown key 'max_lenght'; did you mean max_length?"),
        ("max-length: 3", "recipe.yaml: unknown key 'max-length'; did you mean max_length?"),
        ("config: other.yaml", "recipe.yaml: unknown key 'config'"),
        ("1: 2", "recipe.yaml, line 1: unknown key 1: a key must be text"),
        ("max_lenght:", "recipe.yaml: unknown key 'max_lenght'; did you mean max_length?"),
        ("seed: 1\ntop_k: 2\nseed: 3", "recipe.yaml, line 3: the key 'seed' stands in line 1 too; leave one of them"),
        ("lr_scheduler_kwargs: {a: 1, a: 2}", "recipe.yaml, line 1: the key 'a' stands in line 1 too"),
        ("no: 1", "recipe.yaml, line 1: unknown key no: a key must be text"),
        ("[a]: 1", "recipe.yaml, line 1: unknown key a list or a mapping: a key must be text"),
        ("output_dir: 010", "recipe.yaml, line 1: YAML reads 010 neither as text nor as a plain number"),
        ("output_dir: 2024_11", "recipe.yaml, line 1: YAML reads 2024_11 neither as text nor as a plain number"),
        ("output_dir: 1:30", "recipe.yaml, line 1: YAML reads 1:30 neither as text nor as a plain number"),
        ("output_dir: 2024-11-30", "recipe.yaml, line 1: YAML reads 2024-11-30 neither as text nor as a plain number"),
        ("output_dir: 2024-99-30", "recipe.yaml, line 1: YAML reads 2024-99-30 neither as text nor as a plain number"),
        ("seed: " + "9" * 5000, "neither as text nor as a plain number"),
        ("learning_rate: .nan", "recipe.yaml, line 1: YAML reads .nan neither as text nor as a plain number"),
        ("learning_rate: nan", "recipe.yaml: learning_rate must be a finite number, not nan"),
        ("corpus_weights: [1, inf]", "recipe.yaml: corpus_weights must be a finite number, not inf"),
        ("output_dir: 1.10", "recipe.yaml: output_dir takes text, but YAML doesn't read 1.1 as text; put it in quotes"),
        (
            "text_column: yes",
            "recipe.yaml: text_column takes text, but YAML doesn't read true as text; put it in quotes",
        ),
        ("output_dir: {a: 1}", "recipe.yaml: output_dir takes text, not a mapping"),
        ("corpus: [a.txt, null]", "recipe.yaml: corpus takes values in a list, not None among them"),
        ("corpus: [[a.txt]]", "recipe.yaml: corpus takes values in a list, not ['a.txt'] among them"),
        ('corpus: "a\\0b"', "recipe.yaml, line 1: text can't hold the null character"),
        ('corpus: "\\ud83d"', "recipe.yaml, line 1: text can't hold the null character or only half of a character"),
        ("seed: !!int abc", "recipe.yaml, line 1: tags such as !int aren't read; leave it out"),
        (
            "seed: !!python/object/apply:os.getcwd []",
            "recipe.yaml, line 1: tags such as !python/object/apply:os.getcwd",
        ),
        ("seed: 1\n---\nseed: 2", "can't be read as YAML: expected a single document"),
        ("corpus: " + "[" * 5000, "can't be read as YAML: it is nested too deeply"),
        (LAUGHS, "recipe.yaml holds more than 10,000 values, those behind aliases included"),
        ("corpus: &a [*a]", "recipe.yaml holds more than 10,000 values"),
        ("max_length: long", "recipe.yaml: argument --max_length/--max-length: invalid int value: 'long'"),
        ("max_length: 1.5", "recipe.yaml: argument --max_length/--max-length: invalid int value: '1.5'"),
        ("max_length: true", "recipe.yaml: argument --max_length/--max-length: invalid int value: 'True'"),
        ("max_length: [16, 32]", "recipe.yaml: max_length takes one value, not the list [16, 32]"),
        ("corpus_weights: [1, two]", "recipe.yaml: argument --corpus_weights/--corpus-weights: invalid float value"),
        ("streaming: perhaps", "recipe.yaml: argument --streaming: Truthy value expected: got perhaps"),
        ("method: tutor-kd\nsampling: 3", "recipe.yaml: argument --sampling: invalid choice: '3'"),
        ("mlm_probability: -1", "mlm_probability can't be -1.0"),
        ("method: [kd]", "there is no method"),
        ("- max_length", "must be a mapping of keys to values"),
        ("corpus: [a", "recipe.yaml can't be read as YAML: while parsing a flow sequence in "),
        ("corpus: [a\nseed: 2", 'recipe.yaml", line 1, column 9: corpus: [a'),
    ],
)
@pytest.mark.parametrize("command", ["distill", "adapt"])
def test_bad_recipes(capfd, recipe, command, text, message):
    if command == "adapt" and text.startswith(("sampling", "method")):
        message = "recipe.yaml is for tutorkd distill, not for adapt"
    assert message in fail(capfd, command, *recipe(text))


def test_a_recipe_that_isn_t_utf_8(capfd, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"text_column: \xe9")
    assert "can't be read as YAML" in fail(capfd, "distill", "--config", str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("command", ["env", "demo", "evaluate"])
def test_other_commands_refuse_unknown_options_too(capfd, command):
    assert f"tutorkd {command}: unknown option --qqqqqqqq" in fail(capfd, command, "--qqqqqqqq")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("do_train", "true", "the command says what is done"),
        ("resume_from_checkpoint", "folder", "the same command goes on from its last checkpoint by itself"),
        ("remove_unused_columns", "true", "rows, masks and batches are made by tutorkd"),
        ("dataloader_drop_last", "true", "every step has all of its rows"),
        ("label_smoothing_factor", "0.1", "losses and their means over the batch are those of the method"),
        ("batch_eval_metrics", "true", "what is computed from held-out rows is fixed"),
        ("fsdp", "full_shard", "start one process for each device with torchrun"),
    ],
)
def test_options_of_trainer_that_can_t_be_honoured_are_refused(capfd, recipe, option, value, reason):
    for command in ("distill", "adapt"):
        message = fail(capfd, command, f"--{option}", value)
        assert message.startswith(f"tutorkd {command}: {option} can't be set: ")
        assert reason in message
        assert f"recipe.yaml: {option} can't be set" in fail(capfd, command, *recipe(f"{option}: {value}"))


def test_refused_options_may_be_given_their_defaults():
    assert read("--do_train", "false", "--remove_unused_columns", "false")["do_train"] is False


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        (["adapt", "--config"], "paper-half", "run it with: tutorkd distill --config paper-half"),
        (["distill", "--config"], "ablations/tutor", "run it with: tutorkd compare ablations/tutor"),
        (["evaluate", "--config"], "demo", "run it with: tutorkd demo --config demo"),
        (["compare"], "paper-extreme-2", "run it with: tutorkd distill --config paper-extreme-2"),
        (["compare"], "demo", "run it with: tutorkd demo --config demo"),
        (["demo", "--config"], "compare-demo", "run it with: tutorkd compare compare-demo"),
    ],
)  # fmt: skip
def test_a_recipe_for_another_command_is_told_with_the_line_that_runs_it(capfd, command, name, message):
    told = fail(capfd, *command, name)
    assert told.startswith(f"the recipe {name} is for tutorkd ")
    assert message in told


def test_a_recipe_for_another_command_is_told_though_it_has_a_mistake(capfd, recipe):
    flags = recipe("teacher: a\ncorpus: [b]\nmax_lenght: 3")
    for command in (["compare", flags[1]], ["evaluate", *flags]):
        assert f"run it with: tutorkd distill --config {flags[1]}" in fail(capfd, *command)
    assert "unknown key 'max_lenght'" in fail(capfd, "distill", *flags)
    flags = recipe("teacher: a\nsomething: b\nanything: 3")
    assert "unknown key 'something'" in fail(capfd, "evaluate", *flags)


@pytest.mark.parametrize("content", ["window: 4", "method: kd\non_policy_share: 0.5", "method: clm\nmax_steps: 5"])
def test_a_recipe_that_distils_causal_models_is_told_too(capfd, recipe, content):
    flags = recipe(content)
    assert f"run it with: tutorkd distill --config {flags[1]}" in fail(capfd, "adapt", *flags)


def test_a_recipe_for_another_method_isn_t_one_for_another_command(capfd):
    message = fail(capfd, "distill", "--config", "paper-half", "--method", "kd")
    assert message == "paper-half: tutor_init is an option of --method tutor-kd, not of kd"


# Help


class _Seen(Exception):
    def __init__(self, parser: OptionParser):
        self.parser = parser


def _parsers(monkeypatch) -> dict[str, OptionParser]:
    """The parser of every command, as the command makes it, and of distill for a rival method too."""

    def read(parser, *args):
        raise _Seen(parser)

    monkeypatch.setattr(OptionParser, "read", read)
    parsers = {}
    commands = ([command, *["model"] * (command == "glue")] for command in COMMANDS if command != "compare")
    for argv in (*commands, ["distill", "--method", "minilm-v2"]):
        with pytest.raises(_Seen) as seen:
            main(argv)
        parsers[" ".join(argv)] = seen.value.parser
    return parsers


def _options(help_text: str) -> dict[str, str]:
    """What a help text says of each option, by its name."""
    found = re.findall(r"^  --(\w\S*)(.*(?:\n {4,}.*)*)", help_text, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _whole_help(parser: OptionParser, capsys) -> str:
    with pytest.raises(SystemExit):
        parser.parse_args(["--help-all"])
    return capsys.readouterr().out


def test_every_option_of_every_command_has_a_sentence_and_its_default_in_the_help(monkeypatch, capsys):
    lacking = []
    for command, parser in _parsers(monkeypatch).items():
        usual = _options(parser.format_help())
        shown = _options(_whole_help(parser, capsys)) if "help-all" in usual else usual
        assert usual.items() <= shown.items()
        for name in set(shown) - {"help", "help-all"}:
            if len(shown[name].split()) < 6 or "(default: " not in shown[name]:
                lacking.append((command, name, shown[name]))
        fields = {field.name for kind in parser.dataclass_types for field in dataclasses.fields(kind) if field.init}
        lacking += [(command, name, "") for name in fields - set(shown) - set(REFUSED)]
    assert not lacking


@pytest.mark.parametrize("command", [adaptation, distillation])
def test_help_shows_our_options_and_the_most_used_of_trainer_s(command, capsys):
    parser = command.parser()
    usual = _options(parser.format_help())
    ours = set.union(*(own_fields(kind) for kind in parser.dataclass_types))
    ours = {name for name in ours - set(REFUSED) if not name.startswith("_")}
    assert usual.keys() == ours | COMMON.keys() | {"config", "help", "help-all"}
    assert parser.format_help().count("\n") < 150
    whole = _options(_whole_help(parser, capsys))
    assert whole.keys() > usual.keys()
    assert not whole.keys() & REFUSED.keys()


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("evaluate", "--models --train --validation --output_dir --save_models --dry_run --restart"),
        (
            "distill-task",
            "--teacher --student --corpus --train --unlabelled --validation --output_dir --dry_run --restart",
        ),
        ("predict", "--model --text --output"),
        ("export", "--model --output_dir --validation --texts"),
        ("trim", "--model --corpus --output_dir --vocab_size --coverage --dry_run"),
    ],
)
def test_help_begins_with_what_a_command_needs_and_shows_every_option_once(capsys, command, first):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    _, behind = shown.split("\nwhat is set first:\n")
    needed, others = behind.split("\nother options:\n")
    assert re.findall(r"^  (--\w+)", needed, re.MULTILINE) == first.split()
    options = re.findall(r"^  (--\w+)", shown, re.MULTILINE)
    assert len(options) == len(set(options))
    assert "--text_column" in others


@pytest.mark.parametrize(
    ("command", "last"), [(adaptation, ""), (distillation, "method: MiniLM v2:"), (evaluation, "embedding models")]
)
def test_help_begins_with_what_nearly_every_run_sets_and_ends_with_what_few_do(command, last):
    parser = command.parser()
    help_text = parser.format_help()
    _, first = help_text.split("\nwhat is set first:\n")
    first, others = first.split("\n\n", 1)
    wanted = {"models", "train", "validation"} if command is evaluation else {"corpus", "max_steps", "learning_rate"}
    assert _options(first).keys() >= wanted | {"output_dir", "dry_run"}
    assert not _options(first).keys() & _options(others).keys()
    usual, _, seldom = others.partition("\nseldom needed:\n")
    assert last in usual
    assert ("adam_beta2" in _options(seldom)) == (command is not evaluation)
    assert not _options(seldom).keys() & _options(usual).keys()


@pytest.mark.parametrize("objective", [MASKED, CAUSAL, EMBEDDING], ids=lambda objective: objective.name)
def test_the_constants_of_a_method_stand_under_its_title(objective):
    for name, method in methods_for(objective).items():
        shown = distillation.parser(name, objective).format_help()
        constants = [field.name for field in dataclasses.fields(method.settings)]
        assert (f"\nmethod: {method.title}:\n" in shown) == bool(constants)
        if constants:
            under = _options(shown.split(f"\nmethod: {method.title}:\n")[1].split("\n\n")[0])
            assert under.keys() == {*constants}


def test_trainer_s_options_are_told_apart_by_their_names():
    fields = {field.name for field in dataclasses.fields(PretrainingConfig)}
    assert fields >= COMMON.keys()
    assert not COMMON.keys() & REFUSED.keys()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "compare"])
def test_help_is_printed_and_isn_t_an_error(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: tutorkd {command}" in capsys.readouterr().out


def test_the_bare_command_lists_the_commands(capsys):
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        shown = capsys.readouterr().out
        assert all(command in shown for command in COMMANDS)
    assert main(["--version"]) == 0
    assert re.fullmatch(r"tutorkd \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_env_prints_versions_and_the_machine(capsys):
    complete("env")
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{shown}" for name in ("torch", "transformers", "python", "memory", "bfloat16"))


# Packaged recipes


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("paper")])
def test_a_recipe_of_the_paper_has_its_constants(name):
    values = read("--config", name)
    constants = {
        **{"learning_rate": 5e-4, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6, "weight_decay": 0.01},
        **{"warmup_steps": 10_000, "max_steps": 1_000_000, "lr_scheduler_type": "linear", "mlm_probability": 0.15},
        **{"per_device_train_batch_size": 128, "max_length": 128, "modified_logit_weight": 25, "policy_weight": 1},
        **{"plausibility_weight": 1, "hidden_state_weight": 0.5, "sampling": "multinomial", "tutor_init": "random"},
        **{
            "teacher": "google-bert/bert-base-uncased",
            "student": name.removeprefix("paper-"),
            "student_init": "random",
        },
    }
    assert {key: values[key] for key in constants} == constants
    assert values["attention_score_weight"] == (0 if name == "paper-extreme-2" else 0.5)


def test_the_demo_s_recipe_has_a_section_that_each_stage_understands():
    recipe = load_recipe("demo")
    assert recipe.keys() == {"adapt", "distill", "beside", "evaluate"}
    commands = {"adapt": adaptation, "distill": distillation, "beside": distillation, "evaluate": evaluation}
    for name, command in commands.items():
        values = {key: value for part in command.parser().read([], recipe[name]) for key, value in vars(part).items()}
        for key, value in recipe[name].items():
            assert values[key] == value, key


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_begins_with_the_command_that_runs_it(name):
    first = recipe_file(name).read_text(encoding="utf-8").splitlines()[0]
    if name.startswith("paper"):
        assert first == f"# tutorkd distill --config {name}"
    elif name.startswith("demo"):
        assert first == f"# tutorkd demo{name.removeprefix('demo').replace('-', ' --')}"
    elif name in recipe_names("distill"):
        teacher = "EMBEDDING_MODEL" if name == "embedding" else "ENCODER"
        assert first == f"# tutorkd distill --config {name} --teacher {teacher} --corpus TEXT"
    elif name == "glue":
        assert first == "# tutorkd glue MODEL --config glue"
    else:
        assert first.startswith(f"# tutorkd compare {name} --teacher ")


def test_help_names_the_recipes_of_its_command():
    papers = ["paper-extreme-12", "paper-extreme-2", "paper-extreme-6", "paper-half"]
    names = ["embedding", "minilm-v2", *papers, "tutor-kd-relations"]
    assert recipe_names("distill") == names
    assert recipe_names("adapt") == []
    told = _options(distillation.parser().format_help())["config"].replace("- ", "-")  # lines end at hyphens
    assert told.startswith(f"RECIPE YAML recipe: a path, {', '.join(names)}. ")
    assert _options(adaptation.parser().format_help())["config"].startswith("RECIPE YAML recipe: a path. ")


# The plan


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    save(tiny.masked_lm(), folder / "teacher")
    save_corpus(folder / "corpus.txt")
    return folder


def _planned(capfd, *argv: str) -> tuple[dict, dict[str, str]]:
    """The resolved recipe, and the facts below it by name."""
    capfd.readouterr()
    complete(*argv)
    shown = capfd.readouterr().out
    _, recipe = shown.split("# resolved recipe\n")
    recipe, facts = recipe.split("\n\n")
    return yaml.safe_load(recipe), dict(re.split(r" {2,}", line, maxsplit=1) for line in facts.strip().splitlines())


@pytest.mark.parametrize("command", ["distill", "adapt"])
def test_dry_run_prints_recipe_sizes_and_costs_and_writes_nothing(models, tmp_path, capfd, command):
    before = sorted(models.rglob("*"))
    flags = ["--max_length", "16", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "3"]
    flags += ["--max_steps", "2000", "--output_dir", str(tmp_path / "out"), "--bf16", "false", "--eval_strategy", "no"]
    model = ["--teacher" if command == "distill" else "--model", str(models / "teacher")]
    flags += ["--push_to_hub", "--hub_token", "secret"]  # makes no repository yet
    argv = [command, *model, "--corpus", str(models / "corpus.txt"), *flags, "--dry-run"]
    recipe, facts = _planned(capfd, *argv)
    assert recipe["max_length"] == 16
    assert recipe["output_dir"] == str(tmp_path / "out")
    assert "dry_run" not in recipe
    assert "hub_token" not in recipe
    assert facts["tokens a step"] == "192"
    assert facts["steps"] == "2,000"
    assert re.match(r"[\d.]+(e-\d+)? TFLOP", facts["operations a step"])
    assert facts.keys() >= {"trained parameters", "peak memory", "time"}
    assert list(tmp_path.iterdir()) == []
    assert sorted(models.rglob("*")) == before

    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert _planned(capfd, command, "--config", str(tmp_path / "again.yaml"), "--dry_run")[0] == recipe


def test_a_plan_has_the_defaults_of_options_that_help_shows_and_is_a_recipe_as_it_stands(models, tmp_path, capfd):
    argv = ["distill", "--teacher", str(models / "teacher"), "--corpus", str(models / "corpus.txt"), "--max_steps", "5"]
    argv += ["--max_length", "16", "--per_device_train_batch_size", "4"]
    recipe, _ = _planned(capfd, *argv, "--output_dir", str(tmp_path / "out"), "--dry_run")
    asked = {"seed": 42, "save_steps": 500, "lr_scheduler_type": "linear", "gradient_accumulation_steps": 1}
    assert {key: recipe[key] for key in asked} == asked
    assert not {"do_eval", "use_cpu"} & recipe.keys()  # a mistake to say; the machine's
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert _planned(capfd, "distill", "--config", str(tmp_path / "again.yaml"), "--dry_run")[0] == recipe


def test_where_the_number_of_steps_isn_t_given_a_dry_run_estimates_a_pass(models, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("tutorkd.pretraining.plan.matmul_rate", lambda *arguments: (2e7, 1e7, 3e7))
    flags = ["--max_length", "16", "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "out")]
    flags += ["--bf16", "false", "--eval_strategy", "no", "--num_train_epochs", "2", "--heldout", "0"]
    command = ["adapt", "--model", str(models / "teacher"), *flags, "--dry-run", "--corpus", str(models / "corpus.txt")]
    _, facts = _planned(capfd, *command)
    text = (models / "corpus.txt").read_text(encoding="utf-8")
    tokens = len(text.split()) + text.count("\n\n") + 1  # a separator behind each document
    steps = 2 * round(tokens / 14 / 4)
    assert facts["steps"] == f"about {steps}, 2 passes over the text"
    found = re.match(
        r"([\d.]+) s a step at 50% of .*0 GFLOP/s \(a median, quartiles 0 and 0\), all of them ", facts["time"]
    )
    flops = 1e12 * float(facts["operations a step"].split(" TFLOP")[0])
    assert float(found[1]) == pytest.approx(flops / (0.5 * 2e7), rel=0.005)

    _, facts = _planned(capfd, *command, str(models / "corpus.txt"), "--corpus_weights", "1", "2")
    assert facts["steps"] == "2 passes over the text"
    seconds, hourly = re.match(r"([\d.]+) s a step at 50% of .*, ([\d.]+) M tokens an hour", facts["time"]).groups()
    assert float(hourly) == pytest.approx(64 * 3600 / float(seconds) / 1e6, abs=0.006)


@pytest.mark.parametrize(("compiled", "told"), [("true", "compiled step at 40%"), ("false", "step at 20%")])
def test_a_dry_run_says_whether_a_gpu_s_steps_are_compiled(models, tmp_path, capfd, monkeypatch, compiled, told):
    monkeypatch.setattr("tutorkd.pretraining.plan.matmul_rate", lambda *arguments: (2e7, 1e7, 3e7))
    monkeypatch.setattr(
        "tutorkd.pretraining.plan.share_of_rate", lambda _, compiled: share_of_rate(torch.device("cuda"), compiled)
    )
    flags = ["--max_length", "16", "--max_steps", "5", "--output_dir", str(tmp_path / "out")]
    flags += ["--corpus", str(models / "corpus.txt"), "--bf16", "false", "--torch_compile", compiled]
    _, facts = _planned(capfd, "adapt", "--model", str(models / "teacher"), *flags, "--dry-run")
    assert re.match(rf"[\d.]+ s a {told} of this machine's 0 GFLOP/s .*, all of them ", facts["time"])


def test_a_dry_run_says_which_name_it_takes_for_a_data_set_of_the_hub(models, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # else one that isn't on disk is refused
    flags = ["--max_length", "16", "--output_dir", str(tmp_path / "out"), "--bf16", "false", "--max_steps", "1"]
    corpora = ["--corpus", str(models / "corpus.txt"), "nothing", "--dry-run"]
    _, facts = _planned(capfd, "adapt", "--model", str(models / "teacher"), *flags, *corpora)
    assert facts["not looked up"] == "nothing: not a file or folder, so taken for a data set of the Hub"
    _, facts = _planned(capfd, "adapt", "--model", str(models / "teacher"), *flags, *corpora[:2], "--dry-run")
    assert "not looked up" not in facts


@pytest.mark.parametrize(
    ("words", "streaming", "said"),
    [
        ("w1 w2 w3 one two", "false", ", 40.0% of the tokens unknown to the tokenizer, "),
        ("w1 w2 w3 one two", "true", ": streamed, 40.0% of the tokens at its beginning unknown to the tokenizer, "),
        ("w1 " * 150 + "one", "false", None),
    ],
)
def test_the_share_of_unknown_tokens_is_told_from_one_percent_on(tmp_path, words, streaming, said):
    (tmp_path / "a.txt").write_text(words, encoding="utf-8")
    text = CorpusArguments([str(tmp_path / "a.txt")], max_length=16, streaming=streaming == "true")
    shown = "\n".join(text.described(text.load(tiny.tokenizer())))
    assert (said or "rows held out") in shown
    assert ("unknown to the tokenizer" in shown) == (said is not None)


@pytest.mark.parametrize(("content", "lines"), [("w1 w2\nw3", False), ("w1 w2\nw3", True), ("w1 w2\n\nw3", False)])
def test_a_text_of_which_nothing_can_be_held_out_is_told(tmp_path, content, lines):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    text = CorpusArguments([str(tmp_path / "a.txt")], max_length=16, lines=lines)
    shown = "\n".join(text.described(text.load(tiny.tokenizer())))
    alone = content == "w1 w2\nw3" and not lines
    assert ("a single document leaves nothing to hold out" in shown) == alone
    assert ("2 documents" in shown) == (not alone)
