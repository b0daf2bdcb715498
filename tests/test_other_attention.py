"""Families whose attention can't be read, such as DeBERTa's and MPNet's: methods that compare no attention."""

import pytest
import tiny
import torch
from commands import SHORT, complete, fail, save, save_corpus
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from tutorkd.masking import MaskingCollator
from tutorkd.reader import Ask
from tutorkd.sentence_teacher import load_sentence_teacher
from tutorkd.teacher import Teacher

FAMILIES = ["deberta-v2", "mpnet"]
NO_ATTENTION = ["--attention_score_weight", "0"]


def _batch():
    rows = [{**row, "draw": draw} for draw, row in enumerate(tiny.rows(4))]
    rows[0]["input_ids"] = rows[0]["input_ids"][:9]
    return MaskingCollator(tiny.tokenizer(), 0.3, 0, tiny.VOCABULARY)(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_says_what_the_model_says(family):
    model, batch = tiny.masked_lm(family), _batch()
    rows = {"input_ids": batch.corrupted_ids, "attention_mask": batch.mask}
    taught = Teacher(model)(*rows.values(), Ask(hidden=[0, 2, 4]), batch.masked_positions)
    with torch.no_grad():
        outputs = model(**rows, output_hidden_states=True)
    torch.testing.assert_close(taught.logits, outputs.logits.flatten(0, 1)[batch.masked_positions])
    for found, layer in zip(taught.hidden, (0, 2, 4), strict=True):
        torch.testing.assert_close(found, outputs.hidden_states[layer])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "flags",
    [["kd"], ["distilbert"], ["mlm"], ["tutor-kd", *NO_ATTENTION], ["tinybert", *NO_ATTENTION]],
    ids=lambda flags: flags[0],
)
def test_methods_that_read_no_attention_train_a_student(tmp_path, family, flags):
    teacher = save(tiny.masked_lm(family), tmp_path / "teacher")
    text, out = save_corpus(tmp_path / "text.txt"), tmp_path / "out"
    complete("distill", "--teacher", teacher, "--corpus", text, *SHORT, "--method", *flags, "--output_dir", str(out))
    kind = AutoModelForMaskedLM if flags[0] in ("kd", "distilbert", "mlm") else AutoModel
    student, info = kind.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert student.config.intermediate_size < 128  # the teacher's


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "flags",
    [["minilm-v2"], ["minilm"], ["tutor-kd"], ["tinybert"], ["tutor-kd", *NO_ATTENTION, "--relation_weight", "1"]],
)
def test_methods_that_compare_attention_are_refused_with_what_works(tmp_path, family, flags, capfd):
    teacher = save(tiny.masked_lm(family), tmp_path / "teacher")
    text, out = save_corpus(tmp_path / "text.txt"), tmp_path / "out"
    told = fail(
        capfd,
        *("distill", "--teacher", teacher, "--corpus", text, *SHORT, "--output_dir", str(out)),
        "--method",
        *flags,
    )
    assert (
        "interface and so can't be compared: choose a method that doesn't read it (kd, distilbert, mlm, embedding)"
        in told
    )
    assert not out.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_model_of_such_a_family_teaches_one(tmp_path, family):
    folder = tiny.sentence_encoder(tmp_path, family=family)
    texts = ["w1 w2 w3", "w7 w8 w9 w10 w11 w12 w13"]
    teacher = load_sentence_teacher(str(folder))
    tokens = teacher.tokenizer(texts, padding=True, return_tensors="pt")
    wanted = SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(teacher.vectors(tokens["input_ids"], tokens["attention_mask"]), wanted)
    text, out = save_corpus(tmp_path / "text.txt"), tmp_path / "out"
    complete(
        "distill", "--teacher", str(folder), "--corpus", text, *SHORT, "--method", "embedding", "--output_dir", str(out)
    )
    student = SentenceTransformer(str(out), device="cpu")
    assert student[0].model.config.intermediate_size < 128
    assert student.encode(texts).shape == (2, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_a_classifier_of_such_a_family_are_compared(tmp_path, family, capfd):
    torch.manual_seed(0)
    config = tiny.config(family, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    classifier = save(AutoModelForSequenceClassification.from_config(config), tmp_path / "classifier")
    rows = [f"{text},{('no', 'yes')[row % 2]}" for row, text in enumerate(tiny.documents(24))]
    for name, some in (("train", rows[:16]), ("validation", rows[16:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *some]))
    command = [
        *("distill-task", "--teacher", classifier, "--train", str(tmp_path / "train.csv"), "--max_length", "32"),
        *(
            "--validation",
            str(tmp_path / "validation.csv"),
            "--num_train_epochs",
            "1",
            "--output_dir",
            str(tmp_path / "out"),
        ),
    ]
    assert "can't be compared" in fail(capfd, *command, "--attention_score_weight", "1")
    complete(*command, "--hidden_state_weight", "1")  # the folder isn't that of the run that was refused
    assert (tmp_path / "out" / "student" / "model.safetensors").exists()
