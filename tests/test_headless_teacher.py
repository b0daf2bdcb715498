"""Encoders without a trained MLM head as teachers: what they can teach by, and that no head is made up for them."""

import json

import pytest
import tiny
import torch
from commands import SHORT, assert_same, complete, fail, history, save, save_corpus, weights
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BrosConfig,
    BrosModel,
    T5Config,
    T5Model,
)

from tutorkd.config import DistillationConfig, TutorKDConfig
from tutorkd.errors import UserError
from tutorkd.methods import METHODS
from tutorkd.objective import MASKED
from tutorkd.reader import Ask
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher, load_teacher
from tutorkd.trainer import DistillationTrainer, TutorKDTrainer

IDS = torch.tensor([[2, *range(5, 30), 3]])
HEADLESS = {"minilm-v2": ["--relation_heads", "8"], "minilm": [], "tinybert": []}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One encoder as a masked language model, bare, as sentence-transformers saves it, and fine-tuned."""
    root = tmp_path_factory.mktemp("headless")
    whole = tiny.masked_lm()
    save(whole, root / "whole")
    save(whole.base_model, root / "bare")
    save(whole.base_model, root / "sentences")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (root / "sentences" / "modules.json").write_text(json.dumps(modules))
    classifier = AutoModelForSequenceClassification.from_config(whole.config)
    classifier.base_model.load_state_dict(whole.base_model.state_dict(), strict=False)
    save(classifier, root / "classifier")
    save_corpus(root / "corpus.txt")
    return root


def _distill(root, teacher, out, *flags):
    where = ["--teacher", str(root / teacher), "--corpus", str(root / "corpus.txt"), "--output_dir", str(out)]
    return ["distill", "--method", "tutor-kd", *where, *SHORT, "--save_strategy", "no", *flags]


@pytest.mark.parametrize("kind", ["bare", "sentences", "classifier"])
def test_its_body_reads_as_transformers_does_and_there_is_no_head_to_ask(root, kind):
    teacher = load_teacher(str(root / kind))
    states = AutoModel.from_pretrained(root / kind)(IDS, output_hidden_states=True).hidden_states
    for mine, expected in zip(teacher(IDS, ask=Ask(hidden=range(5))).hidden, states, strict=True):
        torch.testing.assert_close(mine, expected)
    assert not teacher.answers
    assert not hasattr(teacher, "head")
    assert load_teacher(str(root / "whole")).answers


@pytest.mark.parametrize("kind", ["bare", "sentences", "classifier"])
@pytest.mark.parametrize("method", HEADLESS)
def test_methods_that_ask_no_head_train_as_with_the_same_encoder_that_has_one(root, tmp_path, method, kind):
    flags = ["--method", method, *HEADLESS[method]]
    for teacher in ("whole", kind):
        complete(*_distill(root, teacher, tmp_path / teacher, *flags))
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / kind))


class FamilyConfig(BertConfig):
    """Of a family of one's own, which has an encoder and nothing else."""

    model_type = "family-without-heads"


class FamilyModel(BertModel):
    config_class = FamilyConfig


@pytest.fixture(scope="module")
def family(root):
    """The same encoder as one of that family."""
    AutoConfig.register(FamilyConfig.model_type, FamilyConfig)
    AutoModel.register(FamilyConfig, FamilyModel)
    whole = AutoModel.from_pretrained(root / "whole")
    model = FamilyModel(FamilyConfig(**{**whole.config.to_diff_dict(), "model_type": FamilyConfig.model_type}))
    model.load_state_dict(whole.state_dict())
    save(model, root / "family")
    return "family"


@pytest.mark.parametrize("method", HEADLESS)
def test_a_family_without_a_class_of_masked_language_models_teaches_as_the_same_encoder(root, tmp_path, method, family):
    flags = ["--method", method, *HEADLESS[method]]
    for teacher in ("whole", family):
        complete(*_distill(root, teacher, tmp_path / teacher, *flags))
    found, expected = (
        {name: value for name, value in weights(tmp_path / teacher).items() if "pooler" not in name}  # an MLM has none
        for teacher in (family, "whole")
    )
    assert_same(found, expected)


def test_methods_that_train_a_head_are_refused_for_a_family_without_one(root, tmp_path, capfd, family):
    message = fail(capfd, *_distill(root, family, tmp_path / "run", "--method", "mlm"))
    assert message.startswith("a student of the family family-without-heads can't have the MLM head that this method")


def test_what_reads_more_than_tokens_or_has_a_decoder_is_refused_in_one_line(root, tmp_path, capfd):
    torch.manual_seed(0)
    save(BrosModel(BrosConfig(vocab_size=100, **tiny.SIZES)), root / "layout")
    message = fail(capfd, *_distill(root, "layout", tmp_path / "run", "--method", "minilm"))
    assert message.startswith(
        "the teacher is a BrosModel, which can't read tokens without other inputs (You have to specify"
    )
    save(T5Model(T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=100)), root / "t5")
    message = fail(capfd, *_distill(root, "t5", tmp_path / "run", "--method", "minilm"))
    assert "t5 is an encoder-decoder (t5), which can't be trained here: name an encoder or a causal" in message


def test_masked_language_modelling_starts_at_its_body_and_a_new_head(root, tmp_path, capfd):
    flags = ["--method", "mlm", "--student", "half", "--save_initial_student", "--bf16", "false"]
    complete(*_distill(root, "bare", tmp_path / "run", *flags))
    assert "student: 37 of 43 tensors copied from the teacher" in capfd.readouterr().out  # six are the head's
    start = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "initial_student")
    body = AutoModel.from_pretrained(root / "bare")
    taken = body.encoder.layer[1].output.dense.weight
    assert torch.equal(start.bert.encoder.layer[0].output.dense.weight, taken)


def test_a_student_s_head_stays_as_it_is(root):
    teacher = load_teacher(str(root / "bare"))
    student = build_student("half", teacher.config, head=MASKED)
    head = {name: value.clone() for name, value in student.cls.predictions.transform.state_dict().items()}
    assert initialise_from_teacher(student, teacher).layers == [2, 4]
    assert_same(head, student.cls.predictions.transform.state_dict())
    embeddings = teacher.body.get_input_embeddings().weight
    assert torch.equal(student.get_input_embeddings().weight, embeddings)


def test_in_8_bits_it_teaches_without_a_word_on_tokens_that_it_doesn_t_name(root, tmp_path):
    flags = ["--method", "minilm-v2", *HEADLESS["minilm-v2"], "--teacher_dtype", "int8"]
    complete(*_distill(root, "bare", tmp_path / "run", *flags))
    losses = [line["loss"] for line in history(tmp_path / "run") if "loss" in line]
    assert len(losses) == 4
    assert not any("teacher_accuracy_int8" in line for line in history(tmp_path / "run"))
    card = (tmp_path / "run" / "README.md").read_text()
    assert "4 layers in int8" in card
    assert "rounding" not in card


# What it can't teach by


@pytest.mark.parametrize("kind", ["bare", "sentences", "classifier"])
@pytest.mark.parametrize(
    ("flags", "needing"),
    [
        ([], "Tutor-KD"),
        (["--method", "kd"], "KD"),
        (["--method", "distilbert"], "DistilBERT"),
    ],
)
def test_methods_that_ask_a_head_are_refused_with_those_that_don_t(root, tmp_path, capfd, kind, flags, needing):
    message = fail(capfd, *_distill(root, kind, tmp_path / "run", *flags))
    assert message.startswith(
        f"the teacher {root / kind} has no trained MLM head, which {needing} needs: choose --method minilm-v2, which "
        "needs none (nor do tinybert, minilm, mlm); or for an embedding model --method embedding, "
        "which learns its vectors; or name with --mlm_teacher a model"
    )
    assert message.endswith("tutorkd adapt would train one, but it also changes the body, and with it the vectors of "
                            "an embedding model")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_methods_that_are_named_are_all_that_take_it():
    without = {name for name, method in METHODS.items() if not method.teacher_head}
    assert without == {*HEADLESS, "mlm"}


def test_a_model_without_a_head_that_is_given_in_python_is_taken_and_refused_alike(tmp_path):
    common = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "max_steps": 1, "save_strategy": "no"}
    rows, tokenizer, encoder = tiny.rows(4), tiny.tokenizer(), tiny.masked_lm().base_model
    args = DistillationConfig(output_dir=str(tmp_path), **common)
    trainer = DistillationTrainer("half", encoder, args, rows, tokenizer, method="tinybert")
    assert trainer.train().training_loss > 0
    with pytest.raises(UserError, match="the teacher a BertModel has no trained MLM head, which Tutor-KD needs"):
        TutorKDTrainer("half", Teacher(encoder), TutorKDConfig(output_dir=str(tmp_path), **common), rows, tokenizer)
