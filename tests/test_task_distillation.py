"""Fine-tuning with a classifier's answers as soft targets: formulas, classes by name, and what is learned."""

import json
import math

import numpy as np
import pytest
import tiny
import torch
from commands import complete, fail, save, save_classifier, write_rows
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification, Trainer

from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.evaluation.checkpoint import find_checkpoint, load_classifier
from tutorkd.evaluation.classifier import load_trained
from tutorkd.evaluation.finetune import build_trainer, tokenize
from tutorkd.evaluation.labelled import labels_of, load_task
from tutorkd.evaluation.layers import MatchedLayers
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.evaluation.soft_targets import matched_classes, task_loss
from tutorkd.evaluation.task_student import in_order_of
from tutorkd.evaluation.task_teacher import LABELLED, SOFT_TARGET, TaskTeacher, TaughtTrainer

NAMES = ["no", "perhaps", "yes"]


def classifier(names, folder, seed=0, **changes):
    return save_classifier(AutoModelForSequenceClassification, folder, names, seed, num_hidden_layers=2, **changes)


def labelled(path, count=60, names=("no", "yes"), seed=0):
    """Rows whose class is told by three words, of w0 to w3 or of w10 to w13; returns the path."""
    draw = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        kind = row % len(names)
        words = [f"w{draw.integers(40, 90)}" for _ in range(draw.integers(1, 4))]
        words += [f"w{10 * kind + draw.integers(4)}" for _ in range(3)]
        rows.append({"text": " ".join(words), "label": names[kind]})
    return write_rows(path, rows)


def softmax(values, temperature=1.0):
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


LOGITS, TARGETS = [[0.5, -1.0, 2.0], [1.0, 0.3, -0.7]], [[3.0, 0.0, -1.0], [-2.0, 0.5, 0.1]]


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 2.0), (0.3, 1.0), (0.7, 3.0), (1.0, 2.0)])
def test_the_loss_of_classes_is_that_of_a_plain_loop(weight, temperature):
    labels, with_label = [2, 1], [1.0, 0.0]
    expected = 0.0
    for z, t, label, counts in zip(LOGITS, TARGETS, labels, with_label, strict=True):
        answers, wanted = softmax(z, temperature), softmax(t, temperature)
        soft = -sum(p * math.log(q) for p, q in zip(wanted, answers, strict=True))
        expected += (1 - weight) * counts * -math.log(softmax(z)[label]) + weight * temperature**2 * soft
    soft = SoftTargetArguments(soft_target_weight=weight, temperature=temperature)
    found = task_loss(
        "single_label_classification",
        *map(torch.tensor, (LOGITS, labels, with_label, TARGETS)),
        soft,
    )
    assert found.item() == pytest.approx(expected / 2, rel=1e-5)


def test_the_gradient_is_that_of_the_divergence_from_the_teacher():
    temperature, logits = 2.0, torch.tensor(LOGITS, requires_grad=True)
    soft = SoftTargetArguments(soft_target_weight=1.0, temperature=temperature)
    task_loss(
        "single_label_classification", logits, torch.tensor([0, 0]), torch.ones(2), torch.tensor(TARGETS), soft
    ).backward()
    again = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    wanted = (torch.tensor(TARGETS, dtype=torch.float64) / temperature).log_softmax(-1)
    answers = (again / temperature).log_softmax(-1)
    divergence = (wanted.exp() * (wanted - answers)).sum(-1).mean() * temperature**2
    divergence.backward()
    torch.testing.assert_close(logits.grad.double(), again.grad, rtol=1e-5, atol=1e-7)


def test_the_loss_of_several_classes_is_that_of_a_plain_loop():
    temperature, weight, labels = 2.0, 0.4, [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    expected = 0.0
    for z, t, label in zip(LOGITS, TARGETS, labels, strict=True):
        for logit, target, y in zip(z, t, label, strict=True):
            q, wanted, p = sigmoid(logit), sigmoid(target / temperature), sigmoid(logit / temperature)
            expected += (1 - weight) * -(y * math.log(q) + (1 - y) * math.log(1 - q))
            expected += weight * temperature**2 * -(wanted * math.log(p) + (1 - wanted) * math.log(1 - p))
    found = task_loss(
        "multi_label_classification",
        *map(torch.tensor, (LOGITS, labels, [1.0, 1.0], TARGETS)),
        SoftTargetArguments(soft_target_weight=weight, temperature=temperature),
    )
    assert found.item() == pytest.approx(expected / 6, rel=1e-5)


def test_the_loss_of_numbers_is_the_squared_error_to_label_and_teacher():
    found = task_loss(
        "regression",
        *map(torch.tensor, ([[1.0], [2.0]], [0.5, 7.0], [1.0, 0.0], [[3.0], [1.0]])),
        SoftTargetArguments(soft_target_weight=0.25, temperature=5.0),
    )
    assert found.item() == pytest.approx((0.75 * 0.5**2 + 0.25 * (2**2 + 1**2)) / 2)


def test_without_soft_targets_weight_the_loss_is_that_of_transformers():
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny.config("bert", num_labels=3))
    ids, labels = torch.randint(5, 100, (4, 8)), torch.tensor([0, 2, 1, 1])
    outputs = model(input_ids=ids, labels=labels)
    soft = SoftTargetArguments(soft_target_weight=0.0)
    found = task_loss("single_label_classification", outputs.logits, labels, torch.ones(4), torch.zeros(4, 3), soft)
    torch.testing.assert_close(found, outputs.loss)


def config_of(names, **changes):
    return tiny.config("bert", id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}, **changes)


@pytest.mark.parametrize(
    ("theirs", "wanted", "order"),
    [
        (["yes", "no", "perhaps"], ["no", "perhaps", "yes"], [1, 2, 0]),
        (["NEGATIVE", "POSITIVE"], ["positive", "negative"], [1, 0]),
        (["LABEL_0", "LABEL_1"], ["1", "0"], [1, 0]),
        (["LABEL_0", "LABEL_1"], ["LABEL_1", "LABEL_0"], [1, 0]),
        (["A", "a"], ["a", "A"], [1, 0]),
        (["negative", "positive"], ["0", "1"], [0, 1]),
        (["negative", "neutral", "positive"], ["2", "0", "1"], [2, 0, 1]),
        (["2", "1", "0"], ["0", "1", "2"], [2, 1, 0]),
    ],
)
def test_classes_are_matched_by_name(theirs, wanted, order):
    assert matched_classes(config_of(theirs), "t", "single_label_classification", wanted) == order


@pytest.mark.parametrize("labels", [["0", "1", "3"], ["1", "2", "3"], ["0", "1"], ["0", "1", "2", "3"]])
def test_numbers_that_are_not_those_of_all_classes_are_refused(labels):
    with pytest.raises(UserError, match="its classes are no, perhaps, yes, but those of the labels are"):
        matched_classes(config_of(["no", "perhaps", "yes"]), "t", "single_label_classification", labels)


def test_labels_that_are_numbers_of_classes_are_told_once(capfd):
    for labels in (["0", "1"], ["0", "1"], ["1"]):
        matched_classes(config_of(["bad", "good"]), "told", "single_label_classification", labels, whole=False)
    assert capfd.readouterr().err.splitlines() == [
        "labels: 0 for bad, 1 for good, as told numbers its classes",
        "labels: 1 for good, as told numbers its classes",
    ]


@pytest.mark.parametrize(
    ("theirs", "problem", "message"),
    [
        (
            ["no", "never"],
            None,
            "its classes are no, never, but those of the labels are no, yes; if they mean the same, give",
        ),
        (["no", "perhaps", "yes"], None, "its classes are no, perhaps, yes, but those of the labels are no, yes"),
        (["LABEL_0", "LABEL_1"], None, "its classes are LABEL_0, LABEL_1, but those of the labels are no, yes"),
        (["no"], None, "its answers are a number a row, but the labels here one class a row"),
        (
            ["no", "yes"],
            "multi_label_classification",
            "its answers are a list of classes a row, but the labels here one",
        ),
    ],
)
def test_classes_that_do_not_fit_are_refused(theirs, problem, message):
    with pytest.raises(UserError, match=f"^t can't be learned from: {message}"):
        matched_classes(config_of(theirs, problem_type=problem), "t", "single_label_classification", ["no", "yes"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("soft_target_weight", 1.5),
        ("temperature", 0.0),
        ("hidden_state_weight", -1.0),
        ("attention_score_weight", -1.0),
        ("relation_weight", -1.0),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(UserError, match=f"{name} must be .*, not {value:g}"):
        SoftTargetArguments(**{name: value})


def test_a_row_s_soft_target_is_the_teacher_s_answer_to_its_text_alone_in_the_order_of_the_labels(tmp_path):
    teacher = classifier(["yes", "no"], tmp_path / "teacher")
    texts = [
        " ".join(f"w{word}" for word in range(start, start + length)) for start, length in ((0, 3), (9, 30), (50, 7))
    ]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": texts, "label": [0, 1, 0]}, features=features)
    taught = TaskTeacher(
        SoftTargetArguments(distill_from=teacher), "single_label_classification", ["no", "yes"]
    ).taught(rows, max_length=16)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    for text, target in zip(texts, taught[SOFT_TARGET], strict=True):
        tokens = tiny.tokenizer()(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            (logits,) = model(**tokens).logits
        assert target == pytest.approx(logits[[1, 0]].tolist(), abs=1e-5)
    assert taught[LABELLED][:] == [1.0] * 3
    assert taught["text"][:] == texts


def test_whole_numbers_are_numbers_to_a_classifier_that_gives_numbers(tmp_path):
    teacher = load_trained(classifier(["score"], tmp_path / "teacher"))
    (tmp_path / "stars.csv").write_text("text,label\nw1,5\nw2,1\nw3,4\n")
    rows = in_order_of(teacher, load_task(str(tmp_path / "stars.csv"), "train", "text", None, "label"))
    assert labels_of(rows).tolist() == [5, 1, 4]
    assert rows.features["label"] == Value("float32")
    (tmp_path / "stars.csv").write_text("text,label\nw1,five\nw2,1\n")
    with pytest.raises(UserError, match="its answers are a number a row, but the labels here one class a row"):
        in_order_of(teacher, load_task(str(tmp_path / "stars.csv"), "train", "text", None, "label"))


def test_pairs_are_answered_as_pairs(tmp_path):
    found = load_trained(classifier(["no", "yes"], tmp_path / "teacher"))
    first, second = ["w1 w2", "w3"], ["w4", "w5 w6 w7"]
    answers = found.logits(first, second, max_length=32)
    with torch.no_grad():
        tokens = tiny.tokenizer()("w3", "w5 w6 w7", return_tensors="pt")
        alone = found.model.cpu()(**tokens).logits[0]
    assert answers[1] == pytest.approx(alone.tolist(), abs=1e-5)


def test_the_step_s_loss_is_that_of_soft_targets_and_labels_and_the_teacher_stays(tmp_path):
    teacher = classifier(["yes", "no"], tmp_path / "teacher", seed=1)
    before = (tmp_path / "teacher" / "model.safetensors").read_bytes()
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["w1 w2 w3"] * 2 + ["w9 w8"] * 2, "label": [0, 1, 1, 0]}, features=features)
    soft = SoftTargetArguments(distill_from=teacher, soft_target_weight=0.3, temperature=3.0)
    task_teacher = TaskTeacher(soft, "single_label_classification", ["no", "yes"])
    taught = task_teacher.taught(rows, 16)
    model, tokens = load_classifier(find_checkpoint(save(tiny.masked_lm(), tmp_path / "student")), ["no", "yes"], 0)
    args = FineTuneArguments(per_device_train_batch_size=4, bf16=False, num_train_epochs=1)
    trainer = build_trainer(model, tokens, tokenize(taught, tokens, 16), args, str(tmp_path / "out"), "t", task_teacher)
    (batch,) = trainer.get_train_dataloader()
    model.eval()
    found = trainer.compute_loss(model, batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = task_loss(
        "single_label_classification",
        logits,
        batch["labels"],
        torch.ones_like(batch["labels"]),
        batch[SOFT_TARGET],
        soft,
    )
    torch.testing.assert_close(found, wanted)
    trainer.train()
    assert (tmp_path / "teacher" / "model.safetensors").read_bytes() == before


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where commands run: a student, and rows to train and measure on."""
    monkeypatch.chdir(tmp_path)
    save(tiny.masked_lm("bert", num_hidden_layers=2), tmp_path / "student")
    labelled(tmp_path / "train.jsonl")
    labelled(tmp_path / "validation.jsonl", 20, seed=1)
    return tmp_path


EVALUATE = [
    *("evaluate", "--models", "student", "--train", "train.jsonl", "--validation", "validation.jsonl"),
    *("--output_dir", "out", "--max_length", "32", "--bf16", "false", "--num_train_epochs", "2"),
]


def test_a_student_learns_its_teacher_s_answers_where_labels_say_the_opposite(place, monkeypatch):
    """The teacher says yes where the labels say no; from soft targets alone the student says what the teacher does."""
    wrong = labelled(place / "wrong.jsonl", 200, names=("yes", "no"))
    many = [*EVALUATE, "--num_train_epochs", "8", "--learning_rate", "2e-3"]
    complete(*many, "--train", wrong, "--validation", wrong, "--output_dir", "teachers", "--save_models")
    (teacher,) = (place / "teachers").glob("**/classifier")
    labelled(place / "train.jsonl", 200)
    complete(*many, "--distill_from", str(teacher), "--soft_target_weight", "1")
    (found,) = json.loads((place / "out" / "results.json").read_text())["results"]
    assert found["accuracy"] < 0.1
    monkeypatch.setattr(Trainer, "train", None)
    complete(*many, "--distill_from", str(teacher), "--soft_target_weight", "1")  # isn't trained again


def test_results_from_labels_alone_and_from_soft_targets_are_kept_apart(place, capfd):
    teacher = classifier(["yes", "no"], place / "teacher")
    complete(*EVALUATE)
    message = fail(capfd, *EVALUATE, "--distill_from", teacher)
    assert message.startswith("out holds another run (distill_from: None there, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--distill_from", "student"],
            "the teacher student isn't a fine-tuned classifier, it is a BertForMaskedLM; fine-",
        ),
        (
            ["--distill_from", "other"],
            "other can't be learned from: its classes are good, bad, but those of the labels are no",
        ),
        (["--distill_from", "none/"], "the model none/: there is no such folder"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(place, capfd, options, message):
    classifier(["good", "bad"], place / "other")
    assert fail(capfd, *EVALUATE, *options).startswith(message)


def test_rows_without_labels_have_soft_targets_alone(tmp_path):
    teacher = classifier(["yes", "no"], tmp_path / "teacher")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["w1", "w2"], "label": [1, 0]}, features=features)
    more = Dataset.from_dict({"text": ["w3 w4"]})
    taught = TaskTeacher(
        SoftTargetArguments(distill_from=teacher), "single_label_classification", ["no", "yes"]
    ).taught(rows, 16, more)
    assert taught["text"][:] == ["w1", "w2", "w3 w4"]
    assert taught["label"][:2] == [1, 0]
    assert taught[LABELLED][:] == [1.0, 1.0, 0.0]


def test_rows_of_the_validation_set_are_left_out_of_text_without_labels_and_counted(place, capfd):
    teacher = classifier(["yes", "no"], place / "teacher")
    held_out = [json.loads(line)["text"] for line in (place / "validation.jsonl").read_text().splitlines()]
    texts = [held_out[0], f"  {held_out[5]} ".replace(" ", "  "), *(f"w50 w{word} w{word}" for word in range(30))]
    (place / "more.csv").write_text("text\n" + "\n".join(texts) + "\n")
    told = [*EVALUATE, "--distill_from", teacher, "--unlabelled", "more.csv"]
    complete(*told, "--dry_run")
    shown = capfd.readouterr().out
    assert "30 rows, 2 rows of the validation set left out" in shown
    assert "6 a model, of 32 rows" in shown  # 60 + 30 rows, twice
    complete(*told)
    assert "text without labels: 30 rows, 2 rows of the validation set left out" in capfd.readouterr().err
    (place / "more.csv").write_text("text\n" + "\n".join(texts[2:]) + "\nw7\n")
    assert "out holds another run (data_sha256: " in fail(capfd, *told)
    (place / "more.csv").write_text("text\n" + texts[0] + "\n")
    assert "more.csv: all of its 1 rows are also in the validation set" in fail(capfd, *told)


def test_text_without_labels_needs_a_teacher(place, capfd):
    assert "name it with --distill_from" in fail(capfd, *EVALUATE, "--unlabelled", "more.csv")
    options = ["--unlabelled", "more.csv", "--distill_from", "student", "--soft_target_weight", "0"]
    assert "give a soft_target_weight above 0" in fail(capfd, *EVALUATE, *options)


def reading_of(folder, tokens):
    """Hidden states and attention scores before the softmax of a saved model, as transformers itself gives them."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = model(**tokens, output_hidden_states=True).hidden_states
    scores = []
    for layer, states in zip(model.bert.encoder.layer, hidden, strict=False):
        query, key = (
            part(states).unflatten(-1, (4, 8)).transpose(1, 2)
            for part in (layer.attention.self.query, layer.attention.self.key)
        )
        scores.append(query @ key.mT / 8**0.5)
    return hidden, scores


def test_layers_that_match_are_compared_where_that_is_asked_for(tmp_path):
    teacher = classifier(["no", "yes"], tmp_path / "teacher", seed=1)
    student = classifier(["no", "yes"], tmp_path / "student", seed=2)
    tokens = tiny.tokenizer()(["w1 w2 w3", "w4 w5"], ["w6", "w7 w8"], padding=True, return_tensors="pt")
    tokens["token_type_ids"] = torch.tensor([[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1]])
    (ours, of_ours), (theirs, of_theirs) = (reading_of(each, tokens) for each in (student, teacher))
    mask = tokens["attention_mask"].bool()
    pairs = (mask[:, None, :, None] & mask[:, None, None]).expand(-1, 4, -1, -1)
    hidden = sum(((a - b)[mask] ** 2).mean() for a, b in zip(ours, theirs, strict=True))
    scores = sum(((a - b)[pairs] ** 2).mean() for a, b in zip(of_ours, of_theirs, strict=True))

    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    soft = SoftTargetArguments(distill_from=teacher, hidden_state_weight=0.5, attention_score_weight=2.0)
    layers = MatchedLayers(model, tiny.tokenizer(), load_trained(teacher), soft).cpu()
    outputs, loss = layers.read(model, dict(tokens))
    assert loss.item() == pytest.approx((0.5 * hidden + 2 * scores).item(), rel=1e-4)
    with torch.no_grad():
        alone = AutoModelForSequenceClassification.from_pretrained(student).eval()(**tokens).logits
    torch.testing.assert_close(outputs.logits.detach(), alone, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert layers.projection.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in layers.teacher.parameters())


def test_relations_of_the_last_layers_are_compared_where_that_is_asked_for(tmp_path):
    teacher = classifier(["no", "yes"], tmp_path / "teacher", seed=1)
    student = classifier(["no", "yes"], tmp_path / "student", seed=2)
    tokens = tiny.tokenizer()(["w1 w2 w3", "w4 w5"], padding=True, return_tensors="pt")
    real, expected = tokens["attention_mask"].bool(), 0.0
    both = [AutoModelForSequenceClassification.from_pretrained(each).eval() for each in (student, teacher)]
    for name in ("query", "key", "value"):
        rows = []
        for model in both:
            with torch.no_grad():
                hidden = model(**tokens, output_hidden_states=True).hidden_states[-2]
                vectors = getattr(model.base_model.encoder.layer[-1].attention.self, name)(hidden).double()
            rows.append([(row[mask].view(-1, 8, 4).transpose(0, 1)) for row, mask in zip(vectors, real, strict=True)])
        for ours, theirs in zip(*rows, strict=True):
            log_q, log_p = ((each @ each.mT / 4**0.5).log_softmax(-1) for each in (ours, theirs))
            expected += (log_p.exp() * (log_p - log_q)).sum().item() / 8 / real.sum().item()

    soft = SoftTargetArguments(distill_from=teacher, relation_weight=1.5, relation_heads=8)
    layers = MatchedLayers(both[0], tiny.tokenizer(), load_trained(teacher), soft).cpu()
    _, loss = layers.read(both[0], dict(tokens))
    assert loss.item() == pytest.approx(1.5 * expected, rel=1e-4)
    assert soft.settings()["relation_heads"] == 8
    assert not {"relation_heads", "relation_weight"} & SoftTargetArguments(distill_from=teacher).settings().keys()


def test_the_projection_between_layers_is_trained_with_the_student(place):
    teacher = classifier(["no", "yes"], place / "teacher")
    trained = []

    class Watched(TaughtTrainer):
        def create_optimizer(self, model=None):
            trained.append((self._layers.projection.weight, self._layers.projection.weight.detach().clone()))
            return super().create_optimizer(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutorkd.evaluation.finetune.TaughtTrainer", Watched)
        complete(*EVALUATE, "--distill_from", teacher, "--hidden_state_weight", "1", "--attention_score_weight", "1")
    ((weight, before),) = trained
    assert not torch.equal(weight, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "the layers of a student of 2 can't be matched to the 1 of its teacher"),
        ({"num_attention_heads": 2}, "attention scores of 4 student heads and 2 teacher heads can't be compared"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(place, capfd, changes, message):
    config = config_of(["no", "yes"], **{"num_hidden_layers": 2} | changes)
    save(AutoModelForSequenceClassification.from_config(config), place / "teacher")
    found = fail(capfd, *EVALUATE, "--distill_from", "teacher", "--attention_score_weight", "1")
    assert found.startswith(message)


def test_layers_of_models_that_read_other_tokens_are_not_compared(tmp_path):
    found = load_trained(classifier(["no", "yes"], tmp_path / "teacher"))
    tokens = tiny.tokenizer()
    tokens.add_tokens(["another"])
    student = AutoModelForSequenceClassification.from_config(config_of(["no", "yes"]))
    soft = SoftTargetArguments(hidden_state_weight=1.0)
    with pytest.raises(UserError, match="and the student have different tokenizers, so their layers can't be compared"):
        MatchedLayers(student, tokens, found, soft)
