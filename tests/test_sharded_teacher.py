"""A teacher spread over two processes, or four: the run is that of a teacher that is whole in each."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from commands import fail, save, save_corpus
from launch import run_on
from safetensors.torch import load_file, save_file

from tutorkd.config import DistillationConfig
from tutorkd.sharding import gathered_bytes, weight_bytes

METHODS = {"tutor-kd": "headless", "kd": "legacy", "minilm-v2": "modernbert"}
MLM = {"tutor-kd": "bert"}  # where the teacher has none of its own

RUNS = """
import contextlib, io, json, sys
import datasets, torch
import tiny
from tutorkd.cli.main import main
from tutorkd.config import DistillationConfig
from tutorkd.cost import measure_step
from tutorkd.errors import UserError
from tutorkd.methods import METHODS
from tutorkd.pretraining.memory import settings
from tutorkd.quantization import stored
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher, load_teacher
from tutorkd.trainer import DistillationTrainer, prepare_teacher

torch.set_num_threads(1)
root, teachers, mlm = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
found = {"runs": {}}

# Rows of two lengths, so that processes hold different numbers of tokens.
rows = datasets.Dataset.from_list(tiny.rows(24, 12) + tiny.rows(24, 9, seed=1))

def config(name, sharded, **changes):
    common = dict(use_cpu=True, disable_tqdm=True, logging_steps=1, report_to="none", max_steps=4, save_steps=2)
    common |= dict(per_device_train_batch_size=4, gradient_accumulation_steps=2, gradient_checkpointing=True)
    common |= dict(bf16=name.startswith("kd"), eval_strategy="steps", eval_steps=2, shard_teacher=sharded)
    return DistillationConfig(output_dir=f"{root}/{name}", **common | changes)

def train(name, method, sharded, resume_from=None):
    args = config(name, sharded)  # KD's in bfloat16, the teacher too
    constants = METHODS[method].settings(**{"relation_heads": 8} if method == "minilm-v2" else {})
    answering = prepare_teacher(f"{root}/{mlm[method]}", args) if method in mlm else None
    teacher = prepare_teacher(f"{root}/{teachers[method]}", args, mlm=answering)
    torch.manual_seed(0)
    student = build_student("half", teacher.config, head=constants.student_head)
    start = str(initialise_from_teacher(student, teacher))
    trainer = DistillationTrainer(
        student, teacher, args, rows, tiny.tokenizer(), eval_dataset=rows, method=method, settings=constants
    )
    trainer.train(resume_from_checkpoint=resume_from)
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    weights = list(teacher.parameters())
    timed = ("runtime", "per_second", "seconds_left")
    found["runs"][name] = {
        "start": start,
        "log": [{k: v for k, v in line.items() if not k.endswith(timed)} for line in trainer.state.log_history],
        "held": sum(part.numel() for weight in weights for part in stored(weight)),
        "all": sum(weight.numel() for weight in weights),
    }
    return trainer

for method in teachers:
    for kind in ("whole", "sharded"):
        trainer = train(f"{method}-{kind}", method, kind == "sharded")
        ways = settings(trainer, measure_step(trainer, 16))
        found["runs"][f"{method}-{kind}"]["settings"] = {way.name: way.peak_bytes for way in ways}
"""

RESUMED_AND_REFUSED = """
noted = []
for method in teachers:
    trainer = train(f"{method}-resumed", method, True, f"{root}/{method}-sharded/checkpoint-2")
    noted += trainer.teacher.parts

# What torch notes of a pass for a backward pass to come.
found["notes"] = 0
for part in noted:
    state = part.model._get_fsdp_state()
    found["notes"] += len(state._comm_ctx.post_forward_order)
    found["notes"] += sum(len(each._fsdp_param_group._post_forward_indices) for each in state._state_ctx.all_states)

def refusal(make):
    try:
        make()
    except (UserError, ValueError) as error:
        return str(error)

found["compiled"] = refusal(lambda: config("refused", True, torch_compile=True))
found["loaded"] = refusal(lambda: prepare_teacher(tiny.masked_lm(), config("refused", True)))
headless = load_teacher(f"{root}/headless", sharded=True)
found["headless"] = refusal(lambda: Teacher(tiny.masked_lm(), mlm=headless))
found["absent"] = refusal(lambda: load_teacher(f"{root}/absent", sharded=True))

plan = io.StringIO()
with contextlib.redirect_stdout(plan):
    command = ["distill", "--method", "tutor-kd", "--teacher", f"{root}/bert", "--corpus", f"{root}/corpus.txt"]
    command += ["--use_cpu", "true"]
    command += ["--max_length", "16", "--max_steps", "4", "--output_dir", f"{root}/planned"]
    found["planned"] = main([*command, "--dry_run", "true", "--shard_teacher", "true"])
found["plan"] = plan.getvalue()
"""

END = """
with open(f"{root}/found-{trainer.args.process_index}.json", "w") as file:
    json.dump(found, file)
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


def _save_teachers(root: Path) -> None:
    save(tiny.masked_lm("bert", hidden_dropout_prob=0.1), root / "bert")
    save(tiny.masked_lm("modernbert"), root / "modernbert")
    save(tiny.masked_lm("bert").base_model, root / "headless")
    # As checkpoints were written once: LayerNorm's weights with other names, tied weights twice.
    save(tiny.masked_lm("bert"), root / "legacy")
    file = root / "legacy" / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(file)
    for new, legacy in old.items():
        weights = {key.replace(new, legacy): value for key, value in weights.items()}
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    save_file(weights, file, metadata={"format": "pt"})


def _run(root: Path, processes: int, script: str, methods: dict[str, str]) -> list[dict]:
    """What each process found."""
    run_on(processes, script, root, str(root), json.dumps(methods), json.dumps(MLM))
    return [json.loads((root / f"found-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A folder with runs of two processes, and what each of these found."""
    root = tmp_path_factory.mktemp("sharded")
    _save_teachers(root)
    save_corpus(root / "corpus.txt")
    return root, _run(root, 2, RUNS + RESUMED_AND_REFUSED + END, METHODS)


@pytest.fixture(scope="module")
def ran_by_four(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Likewise of four, whose slices of a tiny model's vectors are of eight numbers."""
    root = tmp_path_factory.mktemp("by_four")
    _save_teachers(root)
    return root, _run(root, 4, RUNS + END, {"tutor-kd": METHODS["tutor-kd"]})


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    names = ("model.safetensors", "training_heads.safetensors")
    return {
        f"{name}: {key}": w for name in names if (folder / name).exists() for key, w in load_file(folder / name).items()
    }


def _equal(root: Path, runs: dict, method: str) -> None:
    whole, sharded = (runs[f"{method}-{kind}"] for kind in ("whole", "sharded"))
    assert len([line for line in whole["log"] if "loss" in line]) == 4
    assert sharded["log"] == whole["log"]
    assert sharded["start"] == whole["start"]
    one, two = (_weights(root / f"{method}-{kind}") for kind in ("whole", "sharded"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_final_weights_are_those_of_a_whole_teacher(ran, method):
    root, (found, _) = ran
    _equal(root, found["runs"], method)


def test_so_are_they_with_four_processes_which_hold_a_quarter_each(ran_by_four):
    root, processes = ran_by_four
    _equal(root, processes[0]["runs"], "tutor-kd")
    quarters = [found["runs"]["tutor-kd-sharded"] for found in processes]
    assert sum(quarter["held"] for quarter in quarters) == quarters[0]["all"]
    assert all(quarter["held"] == pytest.approx(quarter["all"] / 4, rel=0.02) for quarter in quarters)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_memory_that_is_foretold_of_a_sharded_teacher_is_what_it_takes(request, processes):
    _, (found, *_) = request.getfixturevalue("ran" if processes == 2 else "ran_by_four")
    whole, sharded = (found["runs"][f"tutor-kd-{kind}"]["settings"] for kind in ("whole", "sharded"))
    assert list(whole) == ["as it is", "bfloat16 teacher", "sharded teacher", "int8 teacher"]
    assert list(sharded) == ["as it is", "whole teacher", "bfloat16 teacher", "int8 teacher"]
    assert whole["sharded teacher"] == pytest.approx(sharded["as it is"], rel=0.001)
    assert sharded["whole teacher"] == pytest.approx(whole["as it is"], rel=0.001)
    assert sharded["int8 teacher"] == pytest.approx(whole["int8 teacher"], rel=0.001)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_as_one_never_interrupted(ran, method):
    root, (found, _) = ran
    sharded, resumed = (found["runs"][f"{method}-{kind}"]["log"] for kind in ("sharded", "resumed"))
    assert [line["loss"] for line in resumed if "loss" in line] == [line["loss"] for line in sharded if "loss" in line]
    one, two = (_weights(root / f"{method}-{kind}") for kind in ("sharded", "resumed"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_each_process_holds_half_of_the_teacher(ran):
    _, processes = ran
    for method in METHODS:
        halves = [found["runs"][f"{method}-sharded"] for found in processes]
        assert sum(half["held"] for half in halves) == halves[0]["all"] == halves[1]["all"]
        assert all(half["held"] == pytest.approx(half["all"] / 2, rel=0.02) for half in halves)
        assert processes[0]["runs"][f"{method}-whole"]["held"] == halves[0]["all"]


def test_passes_leave_nothing_behind(ran):
    assert [found["notes"] for found in ran[1]] == [0, 0]


def test_what_a_sharded_teacher_can_t_be_is_refused(ran):
    for found in ran[1]:
        assert "torch_compile can't be true with shard_teacher" in found["compiled"]
        assert "give its Hub name or path, or leave shard_teacher out" in found["loaded"]
        assert "has no trained MLM head" in found["headless"]
        assert "there is no such folder" in found["absent"]


def test_the_plan_says_what_a_whole_teacher_would_take_of_a_process(ran):
    first, second = ran[1]  # which says nothing
    assert (first["planned"], second["planned"]) == (0, 0)
    assert "\n  whole teacher      about 0.0 GiB\n" in first["plan"]


def test_gathered_at_once_are_embeddings_head_and_one_layer_with_their_buffers():
    model = tiny.masked_lm()
    layer = 4 * (4 * 32 * 33 + 2 * 32 * 128 + 128 + 32 + 4 * 32)
    assert gathered_bytes(model) == 2 * (weight_bytes(model) - 3 * layer)
    assert weight_bytes(model) == 4 * model.num_parameters()


def test_one_process_has_nobody_to_share_with(tmp_path, capfd):
    command = ["distill", "--teacher", str(tmp_path), "--corpus", str(tmp_path), "--shard_teacher", "true"]
    assert "shard_teacher can't be true for a single process" in fail(capfd, *command)
    with pytest.raises(ValueError, match="start one process for each device with torchrun, or leave it out"):
        DistillationConfig(str(tmp_path), use_cpu=True, shard_teacher=True)
