"""What becomes of models that are handed to the trainers in Python: number formats, the teacher's state, tokenizers."""

import copy
import json

import pytest
import tiny
import torch
from accelerate import dispatch_model
from commands import save
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from tutorkd.config import DistillationConfig, PretrainingConfig, TutorKDConfig
from tutorkd.errors import UserError
from tutorkd.methods import METHODS
from tutorkd.methods.pair import check_tokenizer
from tutorkd.objective import CAUSAL
from tutorkd.reader import Ask
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher
from tutorkd.trainer import DistillationTrainer, MaskedLMTrainer, TutorKDTrainer, prepare_teacher

LOW = [torch.bfloat16, torch.float16]


def _arguments(kind, folder, **changes):
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True}
    return kind(output_dir=str(folder), report_to=[], use_cpu=True, **settings, **changes)


def _distil(student, teacher, folder, tokenizer=None, **changes):
    args = _arguments(TutorKDConfig, folder, **changes)
    return TutorKDTrainer(student, teacher, args, tiny.rows(8), tokenizer or tiny.tokenizer())


def _state(model):
    """All that training could change of a model that it doesn't train."""
    return {
        "formats": {name: value.dtype for name, value in model.state_dict().items()},
        "trained": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "modes": {name: part.training for name, part in model.named_modules()},
        "attention": model.config._attn_implementation,
        "devices": {weight.device for weight in model.parameters()},
    }


@pytest.mark.parametrize("dtype", LOW)
def test_a_student_in_16_bits_is_trained_and_saved_in_float32(tmp_path, dtype):
    tiny.masked_lm(num_hidden_layers=2).base_model.to(dtype).save_pretrained(tmp_path / "small")
    student = AutoModel.from_pretrained(tmp_path / "small")
    assert student.dtype == dtype  # transformers loads what was saved
    before = copy.deepcopy(student).float()
    trainer = _distil(student, tiny.masked_lm(), tmp_path / "run", learning_rate=1e-4, warmup_steps=0)
    trainer.train()
    trainer.save_model()
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    saved = AutoModel.from_pretrained(tmp_path / "run")
    assert saved.dtype == torch.float32
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"
    # Steps of about 1e-4 on weights of about 0.2: in bfloat16 nearly all would be rounded away.
    moved = [
        (value - before.get_parameter(name)).abs()
        for name, value in student.named_parameters()
        if "attention" in name and "weight" in name
    ]
    assert (torch.cat([change.flatten() for change in moved]) > 0).float().mean() > 0.9
    for name, value in saved.state_dict().items():
        assert torch.equal(value, student.state_dict()[name])


@pytest.mark.parametrize("dtype", LOW)
def test_a_model_in_16_bits_is_adapted_in_float32(tmp_path, dtype):
    model = tiny.masked_lm(num_hidden_layers=1).to(dtype)
    before = copy.deepcopy(model).float()
    args = _arguments(PretrainingConfig, tmp_path, learning_rate=1e-4, warmup_steps=0)
    MaskedLMTrainer(
        model, args, train_dataset=tiny.rows(8), eval_dataset=None, processing_class=tiny.tokenizer()
    ).train()
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # still tied
    change = (
        model.bert.encoder.layer[0].intermediate.dense.weight - before.bert.encoder.layer[0].intermediate.dense.weight
    )
    assert (change != 0).float().mean() > 0.9


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize("teacher_dtype", ["float32", "bfloat16"])
def test_the_teacher_that_is_given_stays_as_it_is(tmp_path, family, teacher_dtype):
    model = tiny.masked_lm(family).train()
    before, weights = _state(model), {name: value.clone() for name, value in model.state_dict().items()}
    trainer = _distil("half", model, tmp_path, teacher_dtype=teacher_dtype)
    trainer.train()
    assert _state(model) == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert {weight.dtype for weight in trainer.teacher.parameters()} == {getattr(torch, teacher_dtype)}
    model(input_ids=torch.tensor([[2, 7, 3]])).logits.sum().backward()  # it can still be trained


def test_a_teacher_object_that_is_given_isn_t_recast_either(tmp_path):
    teacher = Teacher(tiny.masked_lm())
    trainer = _distil("half", teacher, tmp_path, teacher_dtype="bfloat16")
    assert {weight.dtype for weight in teacher.parameters()} == {torch.float32}
    assert {weight.dtype for weight in trainer.teacher.parameters()} == {torch.bfloat16}
    assert _distil("half", teacher, tmp_path, teacher_dtype="float32").teacher is teacher


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_frozen_teacher_takes_no_memory_of_its_own(family):
    model = tiny.masked_lm(family)
    teacher = Teacher(model)
    memory = {weight.data_ptr() for weight in model.parameters()}
    assert {weight.data_ptr() for weight in teacher.parameters()} == memory


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_teacher_cast_to_bfloat16_is_the_one_that_is_loaded_in_bfloat16(tmp_path, family):
    path = save(tiny.masked_lm(family), tmp_path / "teacher")
    args = _arguments(DistillationConfig, tmp_path, teacher_dtype="bfloat16")
    ids = torch.tensor([[2, *range(5, 30), 3]])
    given, loaded = (
        prepare_teacher(teacher, args)(ids, ask=Ask(hidden=[4])).hidden[0]
        for teacher in (AutoModelForMaskedLM.from_pretrained(path), path)
    )
    assert torch.equal(given, loaded)


def _placed(model):
    """The same model with accelerate's hooks, as if parts of it lay on two devices."""
    parts = ["bert.embeddings", "cls", *(f"bert.encoder.layer.{layer}" for layer in range(4))]
    placed = dispatch_model(copy.deepcopy(model), dict.fromkeys(parts, "cpu"), force_hooks=True)
    placed.hf_device_map = {part: index % 2 for index, part in enumerate(parts)}
    return placed


def test_a_teacher_that_was_placed_on_several_devices_reads_as_any_other_and_stays_there():
    model, ids = tiny.masked_lm(), torch.tensor([[2, *range(5, 30), 3]])
    plain, placed = Teacher(model), Teacher(_placed(model))
    ask, positions = Ask(hidden=[0, 2, 4], attention=[1, 4], values=True), torch.tensor([3, 7])
    one, two = (teacher(ids, ask=ask, positions=positions) for teacher in (plain, placed))
    assert torch.equal(one.logits, two.logits)
    for mine, others in zip((*one.hidden, *one.attention[1][:3]), (*two.hidden, *two.attention[1][:3]), strict=True):
        assert torch.equal(mine, others)
    head = placed.copy_of_head()
    assert torch.equal(head(one.features), one.logits)
    assert not any(hasattr(part, "_hf_hook") for part in head.modules())
    assert placed.to("meta").visiting(torch.device("meta")) is placed
    assert {weight.device.type for weight in placed.parameters()} == {"cpu"}


def test_of_two_teachers_the_one_that_was_placed_stays_and_the_other_moves():
    model, ids, positions = tiny.masked_lm(), torch.tensor([[2, *range(5, 30), 3]]), torch.tensor([3, 7])
    for placed in (0, 1):
        models = [_placed(model) if index == placed else model for index in range(2)]
        teacher = Teacher(models[0], mlm=Teacher(models[1]))
        visitor = teacher.visiting(torch.device("cpu"))
        assert torch.equal(visitor(ids, positions=positions).logits, Teacher(model)(ids, positions=positions).logits)
        devices = [{weight.device.type for weight in part.model.parameters()} for part in teacher.to("meta").parts]
        assert devices[placed] == {"cpu"}
        assert devices[1 - placed] == {"meta"}


@pytest.mark.parametrize("teacher_dtype", ["auto", "int8"])
def test_a_student_learns_of_a_placed_teacher_what_it_does_of_any_other(tmp_path, teacher_dtype):
    logs = []
    for teacher in (tiny.masked_lm(), _placed(tiny.masked_lm())):
        torch.manual_seed(0)  # the student's start
        trainer = _distil("half", teacher, tmp_path, teacher_dtype=teacher_dtype, logging_steps=1)
        trainer.train()
        logs.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert len(logs[0]) == 2
    assert logs[0] == logs[1]


def test_a_student_that_shares_the_teacher_s_weights_is_refused(tmp_path):
    model = tiny.masked_lm()
    with pytest.raises(UserError, match="student and teacher share weights"):
        _distil(model.base_model, model, tmp_path)
    _distil(copy.deepcopy(model.base_model), model, tmp_path)


def _other_words(folder, old="w3", new="cat"):
    """A checkpoint of a student's with the tiny tokenizer, but for one word."""
    save(AutoModel.from_config(tiny.config("bert", num_hidden_layers=2)), folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(f'"{old}"', f'"{new}"'))
    return str(folder)


@pytest.mark.parametrize("load", [str, AutoModel.from_pretrained], ids=["by path", "loaded"])
@pytest.mark.parametrize("method", ["tutor-kd", "minilm"])
def test_a_student_with_other_tokens_of_the_same_number_is_refused(tmp_path, load, method):
    student = load(_other_words(tmp_path / "student"))
    args = _arguments(TutorKDConfig if method == "tutor-kd" else DistillationConfig, tmp_path / "run")
    with pytest.raises(UserError, match=r"student .*student and of the tokenizer .* token 8 is 'cat' and 'w3'"):
        DistillationTrainer(
            student,
            tiny.masked_lm(),
            args,
            tiny.rows(4),
            tiny.tokenizer(),
            method=method,
            settings=args if method == "tutor-kd" else None,
        )
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_isn_t_the_teacher_s_is_refused(tmp_path):
    folder = tmp_path / "teacher"
    save(tiny.masked_lm(), folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"w9"', '"dog"'))
    for teacher in (str(folder), AutoModelForMaskedLM.from_pretrained(folder)):
        with pytest.raises(UserError, match=r"vocabularies of the teacher .* token 14 is 'dog' and 'w9'"):
            _distil("half", teacher, tmp_path / "run")


def test_a_student_with_the_same_tokenizer_or_none_is_taken(tmp_path):
    folder = tmp_path / "student"
    student = AutoModel.from_config(tiny.config("bert", num_hidden_layers=2))
    student.save_pretrained(folder)
    _distil(AutoModel.from_pretrained(folder), tiny.masked_lm(), tmp_path / "run")
    save(student, folder)
    _distil(AutoModel.from_pretrained(folder), tiny.masked_lm(), tmp_path / "run")


def test_tokens_added_to_the_teacher_s_tokenizer_and_to_both_models_are_no_contradiction(tmp_path):
    teacher, tokenizer = tiny.masked_lm(), tiny.tokenizer()
    student = AutoModel.from_pretrained(_other_words(tmp_path / "student", new="w3"))
    tokenizer.add_tokens(["new"])
    for model in (teacher, student):
        model.resize_token_embeddings(len(tokenizer))
    _distil(student, teacher, tmp_path / "run", tokenizer)


def test_a_student_made_of_the_teacher_starts_at_its_weights_whatever_the_teacher_s_format():
    teacher = Teacher(tiny.masked_lm(), torch.bfloat16)
    student = build_student("half", teacher.config)
    initialise_from_teacher(student, teacher)
    own, taken = student.encoder.layer[0].output.dense.weight, teacher.body.encoder.layer[1].output.dense.weight
    assert own.dtype == torch.float32
    assert torch.equal(own, taken.float())


def test_constants_of_tutor_kd_count_for_it_and_are_refused_for_another_method(tmp_path):
    given = tiny.masked_lm(), _arguments(TutorKDConfig, tmp_path, policy_weight=2.0), tiny.rows(4), tiny.tokenizer()
    assert DistillationTrainer("half", *given).settings.policy_weight == 2
    with pytest.raises(UserError, match=r"^policy_weight of TutorKDConfig would .*settings=KDSettings\(\.\.\.\)"):
        DistillationTrainer("half", *given, method="kd")
    plain = _arguments(TutorKDConfig, tmp_path)
    made = DistillationTrainer("half", given[0], plain, *given[2:], method="kd")
    assert made.settings == METHODS["kd"].settings()


def test_which_token_pads_the_rows_of_causal_models_is_no_matter(tmp_path):
    """As of an instruct model, or of a student whose tokenizer was given one."""
    padding = tiny.causal_tokenizer()
    padding.pad_token = padding.eos_token
    for name, tokenizer in (("teacher", tiny.causal_tokenizer()), ("student", padding)):
        tiny.tiny_causal().save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    check_tokenizer("student", str(tmp_path / "student"), tokenizer, objective=CAUSAL)
    with pytest.raises(UserError, match=r"special tokens .* differ: pad_token"):
        check_tokenizer("student", str(tmp_path / "student"), tokenizer)
    args = DistillationConfig(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none")
    names = str(tmp_path / "student"), str(tmp_path / "teacher")
    DistillationTrainer(*names, args, tiny.rows(4), tokenizer, method="kd")
