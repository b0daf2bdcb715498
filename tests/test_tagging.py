"""Classifiers of words: rows, labels at first pieces, entities, soft targets, and the commands that learn them."""

import csv
import json
import math
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from commands import complete, fail, save, save_classifier, write_rows
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedTokenizer, RobertaTokenizer

from tutorkd.cli.main import main
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import find_checkpoint, load_classifier
from tutorkd.evaluation.classifier import load_trained
from tutorkd.evaluation.finetune import build_trainer, tokenize
from tutorkd.evaluation.labelled import align_labels, load_task, names_of_labels, problem_of_labels
from tutorkd.evaluation.metrics import agreement, answers_of, scores_of
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.evaluation.soft_targets import task_loss
from tutorkd.evaluation.tagged_rows import TaggedRowsCollator, tokenize_tagged
from tutorkd.evaluation.tags import entities, tokenize_words
from tutorkd.evaluation.task_arguments import TaskStudentArguments
from tutorkd.evaluation.task_teacher import LABELLED, SOFT_TARGET, TaskTeacher

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TWO_PIECES, NO_PIECE = "w1 w2", " "  # of the tiny tokenizer, which parts words at white space


tagger = partial(save_classifier, AutoModelForTokenClassification, names=NAMES)


def word_rows(count, seed):
    """Words of which w0 to w9 begin a person, w10 to w19 go on with one, w20 to w29 begin a place."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(draw.integers(2, 6)):
            kind = draw.integers(3)
            if kind == 0:
                words += [f"w{draw.integers(10)}", f"w{draw.integers(10, 20)}"]
                tags += ["B-PER", "I-PER"]
            else:
                words.append(f"w{draw.integers(20, 30)}" if kind == 1 else f"w{draw.integers(40, 90)}")
                tags.append("B-LOC" if kind == 1 else "O")
        rows.append({"tokens": words, "ner_tags": tags})
    return [*rows, {"tokens": ["w20", "w35"], "ner_tags": ["B-LOC", "I-LOC"]}]


def read(source, text="tokens", pair=None, label="ner_tags"):
    return load_task(str(source), "train", text, pair, label)


def tagged(words, codes, names=NAMES):
    features = Features({"text": List(Value("string")), "label": List(ClassLabel(names=names))})
    return Dataset.from_dict({"text": words, "label": codes}, features=features)


# What the files hold


def test_words_and_their_labels_are_read_as_names_and_as_declared_classes(tmp_path):
    words, codes = [["w1", "w2", "w3"], ["w4"]], [[1, 2, 0], [0]]
    names = ["O", "B-X", "I-X"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    Dataset.from_dict({"tokens": words, "ner_tags": codes}, features=features).to_parquet(tmp_path / "d.parquet")
    rows = [
        {"tokens": of_row, "ner_tags": [names[code] for code in each]}
        for of_row, each in zip(words, codes, strict=True)
    ]
    declared, named = read(tmp_path / "d.parquet"), read(write_rows(tmp_path / "d.jsonl", rows))
    for found in (declared, named):
        assert problem_of_labels(found) == "token_classification"
        assert found["text"][:] == words
        assert [[names_of_labels(found)[code] for code in each] for each in found["label"]] == [
            row["ner_tags"] for row in rows
        ]
    assert names_of_labels(declared) == names
    assert names_of_labels(named) == sorted(names)
    assert align_labels(named, declared, "d.jsonl")["label"][:] == codes


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"tokens": ["a", "b"], "ner_tags": ["O"]}, {"tokens": ["a"], "ner_tags": ["B"]}],
            {},
            "row 1 has 2 words in column 'tokens' and 1 labels in column 'ner_tags'; give each word one",
        ),
        (
            [{"tokens": ["a"], "ner_tags": "O"}],
            {},
            "'tokens' holds lists of words, but column 'ner_tags' holds no lists",
        ),
        ([{"tokens": [], "ner_tags": []}, {"tokens": ["a"], "ner_tags": ["O"]}], {}, "row 1 has no words in column"),
        ([{"tokens": [5], "ner_tags": ["O"]}], {}, "row 1 has something other than words in column 'tokens'"),
        ([{"tokens": ["a", "b"], "ner_tags": ["O", "O"]}], {}, "every word has 'O' in column 'ner_tags'"),
        ([{"tokens": ["a", "b"], "ner_tags": [0, -100]}], {}, "column 'ner_tags' holds -100, which means"),
        (
            [{"tokens": ["a"], "ner_tags": ["O"], "other": "b"}],
            {"pair": "other"},
            "'tokens' holds lists of words, which have no pairs: leave 'other' out",
        ),
    ],
)
def test_rows_that_are_not_words_with_a_label_each_are_refused(tmp_path, rows, options, message):
    with pytest.raises(UserError) as raised:
        read(write_rows(tmp_path / "d.jsonl", rows), **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# Pieces


def test_a_label_stands_at_the_first_piece_of_its_word_and_nowhere_else():
    rows = tagged([["w5", TWO_PIECES, NO_PIECE, "w6"], ["w7", "w8", "w9"]], [[1, 3, 4, 0], [0, 1, 2]])
    found = tokenize(rows, tiny.tokenizer(), max_length=6)
    assert found["input_ids"][0] == [2, *(5 + word for word in (5, 1, 2, 6)), 3]
    assert found["labels"][:] == [[-100, 1, 3, -100, 0, -100], [-100, 0, 1, 2, -100]]
    cut = tokenize(rows, tiny.tokenizer(), max_length=4)
    assert cut["labels"][:] == [[-100, 1, 3, -100], [-100, 0, 1, -100]]
    # A row of which nothing is left would have no loss.
    assert len(tokenize(tagged([[NO_PIECE], ["w1"]], [[1], [0]]), tiny.tokenizer(), max_length=6)) == 1
    batch = TaggedRowsCollator(tiny.tokenizer())([found[0], found[1]])
    assert batch["labels"].tolist() == [[-100, 1, 3, -100, 0, -100], [-100, 0, 1, 2, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 5 + [0]]


def test_answers_are_those_at_the_first_pieces_of_one_row_at_a_time(tmp_path):
    teacher = load_trained(tagger(tmp_path / "teacher"))
    rows = [["w5", TWO_PIECES, NO_PIECE, "w6"], ["w7"], ["w9", "w8", "w7", "w6", "w5", "w4"]]
    logits = teacher.logits(rows, max_length=6)
    assert logits.shape == (3, 4, 5)
    assert (~np.ma.getmaskarray(logits).any(-1)).tolist() == [
        [True, True, False, True],
        [True, False, False, False],
        [True] * 4,
    ]
    for row, ids, places in zip(
        range(3),
        ([2, 10, 6, 7, 11, 3], [2, 12, 3], [2, 14, 13, 12, 11, 3]),
        ({0: 1, 1: 2, 3: 4}, {0: 1}, {word: word + 1 for word in range(4)}),
        strict=True,
    ):
        with torch.no_grad():
            (alone,) = teacher.model(torch.tensor([ids], device=teacher.model.device)).logits.cpu()
        for word, place in places.items():
            assert logits[row, word].tolist() == pytest.approx(alone[place].tolist(), abs=1e-5)


def test_behind_the_mask_of_answers_are_numbers_that_can_be_computed_with(tmp_path):
    classifier = load_trained(tagger(tmp_path / "tagger"))
    rows = [["w1", NO_PIECE, "w2"], ["w3"]]
    np.full((2, 3, len(NAMES)), np.inf, np.float32)  # which leaves its memory to whoever asks next
    found = classifier.logits(rows, max_length=16)
    assert np.ma.getmaskarray(found).any(-1).tolist() == [[False, True, False], [False, True, True]]
    assert not np.ma.getdata(found)[np.ma.getmaskarray(found)].any()


def test_words_of_a_tokenizer_of_bytes_have_the_space_before_them(tmp_path):
    marks = {token: code for code, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab")]
    for piece in ("Ġ", "a", "b", *map("".join, merges)):
        marks[piece] = len(marks)
    torch.manual_seed(0)
    tiny.masked_lm("roberta", pad_token_id=1).save_pretrained(tmp_path / "r")
    RobertaTokenizer(vocab=marks, merges=merges).save_pretrained(tmp_path / "r")
    model, tokenizer = load_classifier(find_checkpoint(str(tmp_path / "r")), NAMES, 0, "token_classification")
    assert type(model).__name__ == "RobertaForTokenClassification"
    tokens, places = tokenize_words(tokenizer, [["ab", "a"]], 8)
    assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][0]) == ["<s>", "Ġab", "Ġa", "</s>"]
    assert places == [{0: 1, 1: 2}]
    tokenizer.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").add_prefix_space


@pytest.mark.parametrize("told", [False, True])
def test_a_classifier_of_words_reads_them_as_in_a_text_whatever_its_tokenizer_was_saved_with(tmp_path, told):
    """RoBERTa's may be told to put a space before each word; others of bytes, such as ModernBERT's, can't be."""
    tokenizer = tiny.causal_tokenizer()
    tokenizer.pad_token = tiny.END_OF_TEXT
    marks = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab")]
    for piece in ("Ġ", "a", "b", *map("".join, merges)):
        marks[piece] = len(marks)
    of_bytes = [tokenizer, RobertaTokenizer(vocab=marks, merges=merges, add_prefix_space=told)]
    for number, (each, words) in enumerate(zip(of_bytes, (["w1", "w33", "a"], ["ab", "a", "b"]), strict=True)):
        each.save_pretrained(tmp_path / str(number))
        loaded = AutoTokenizer.from_pretrained(tmp_path / str(number))
        tokens, places = tokenize_words(loaded, [words], 32)
        in_text = loaded(" " + " ".join(words), add_special_tokens=False)["input_ids"]
        special = set(loaded.all_special_ids)
        assert [token for token in tokens["input_ids"][0] if token not in special] == in_text
        for word, place in places[0].items():
            assert loaded.convert_ids_to_tokens(tokens["input_ids"][0][place]).startswith("Ġ"), words[word]


def test_a_tokenizer_that_does_not_know_its_words_is_refused():
    class Slow(PreTrainedTokenizer):
        vocab_size = 0

        def get_vocab(self):
            return {}

    with pytest.raises(UserError, match="a Slow doesn't say which word a token belongs to") as raised:
        tokenize_words(Slow(), [["a"]], 8)
    assert "\n" not in str(raised.value)


# Entities


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("B-X I-X O B-Y", {("X", 0, 2), ("Y", 3, 4)}),
        ("I-X I-X I-Y", {("X", 0, 2), ("Y", 2, 3)}),
        ("B-X B-X I-X", {("X", 0, 1), ("X", 1, 3)}),
        ("O I-X O I-X", {("X", 1, 2), ("X", 3, 4)}),
        ("S-X B-X E-X I-X", {("X", 0, 1), ("X", 1, 3), ("X", 3, 4)}),
        ("B-X L-X U-X", {("X", 0, 2), ("X", 2, 3)}),
        ("B-X I-Y I-Y", {("X", 0, 1), ("Y", 1, 3)}),
        ("B-time-zone I-time-zone", {("time-zone", 0, 2)}),
        ("NOUN NOUN VERB O", {("NOUN", 0, 2), ("VERB", 2, 3)}),
        ("B I O B B I", {("_", 0, 2), ("_", 3, 4), ("_", 4, 6)}),
        ("S B I E O", {("_", 0, 1), ("_", 1, 4)}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_entities_are_those_of_conll(labels, wanted):
    assert entities(labels.split()) == wanted


def test_entities_count_whole_and_words_without_an_answer_do_not():
    labels = np.ma.masked_array([[1, 2, 0, 3], [3, 0, 0, 0]], [[False] * 4, [False, False, True, True]])
    logits = np.full((2, 3, 5), -1.0)
    for row, codes in enumerate([[1, 2, 3], [3, 0, 0]]):
        logits[row, range(3), codes] = 1.0
    logits = np.ma.masked_array(logits, np.zeros_like(logits, dtype=bool))
    logits[1, 2] = np.ma.masked
    answers = answers_of("token_classification", logits)
    # Labelled are PER in row 1, LOC in row 2; answered PER, LOC and LOC; the last word of row 1 isn't answered.
    found = scores_of("token_classification", NAMES, labels, answers)
    assert found == {"entity_f1": pytest.approx(2 * 2 / (2 + 3)), "token_accuracy": pytest.approx(4 / 5)}
    assert agreement("token_classification", labels, answers) == pytest.approx(4 / 5)
    none = np.ma.masked_array([[0, 0]], [[False, False]])
    assert scores_of("token_classification", NAMES, none, none) == {"entity_f1": 0.0, "token_accuracy": 1.0}
    half = np.ma.masked_array([[1, 0, 0, 0], [3, 0, 0, 0]], np.ma.getmaskarray(labels))
    assert scores_of("token_classification", NAMES, labels, half)["entity_f1"] == pytest.approx(2 * 1 / (3 + 2))


# Soft targets


def test_the_loss_is_the_mean_over_words_of_a_plain_loop():
    weight, temperature = 0.3, 2.0
    draw = np.random.default_rng(0)
    logits, labels, labelled = draw.normal(size=(2, 4, 3)), [[-100, 2, 0, -100], [-100, 0, -100, -100]], [1.0, 0.0]
    targets = draw.normal(size=(3, 3))
    places, expected = [(0, 1), (0, 2), (1, 1)], 0.0

    def softmax(values):
        return np.exp(values) / np.exp(values).sum()

    for (row, place), target in zip(places, targets, strict=True):
        z = logits[row, place]
        soft = -(softmax(target / temperature) * np.log(softmax(z / temperature))).sum()
        expected += weight * temperature**2 * soft
        expected -= (1 - weight) * labelled[row] * math.log(softmax(z)[labels[row][place]])
    found = task_loss(
        "token_classification",
        *(torch.tensor(each) for each in (logits, labels, labelled, targets)),
        SoftTargetArguments(soft_target_weight=weight, temperature=temperature),
    )
    assert found.item() == pytest.approx(expected / 3, rel=1e-5)


def test_soft_targets_are_of_the_words_that_both_read_in_the_order_of_the_student_s_classes(tmp_path):
    path = tagger(tmp_path / "teacher", max_position_embeddings=6)
    classes = sorted(NAMES)
    soft = TaskTeacher(SoftTargetArguments(distill_from=path), "token_classification", classes)
    words, more = [["w5", TWO_PIECES, "w6", "w7", "w8"]], [["w9", NO_PIECE, "w4"]]
    labelled = tagged(words, [[0, 1, 2, 3, 4]], classes)
    taught = soft.taught(
        labelled, 16, labelled.from_dict({"text": more}, features=Features(text=List(Value("string"))))
    )
    student = tiny.tokenizer()
    rows = tokenize_tagged(taught, student, 16)
    # The teacher's six positions end with w6; the student's don't.
    assert rows["labels"][0] == [-100, 0, 1, -100, 2, -100, -100, -100]
    assert rows["labels"][1] == [-100, 0, 0, -100]
    assert rows[LABELLED][:] == [1.0, 0.0]
    own = load_trained(path).logits([*words, *more], max_length=16)[..., [NAMES.index(name) for name in classes]]
    batch = TaggedRowsCollator(student)([rows[0], rows[1]])
    wanted = [own[0, 0], own[0, 1], own[0, 2], own[1, 0], own[1, 2]]
    torch.testing.assert_close(batch[SOFT_TARGET], torch.tensor(np.stack(wanted)), rtol=0, atol=1e-5)
    assert (batch["labels"] != -100).sum() == 5


def test_a_student_of_soft_targets_alone_comes_to_answer_as_its_teacher(tmp_path):
    path = tagger(tmp_path / "teacher", num_hidden_layers=1, intermediate_size=64)
    soft = SoftTargetArguments(distill_from=path, soft_target_weight=1.0)
    teacher = TaskTeacher(soft, "token_classification", NAMES)
    words = [row["tokens"] for row in word_rows(100, 0)]
    taught = teacher.taught(tagged(words, [[0] * len(each) for each in words]), 32)
    model, tokenizer = load_classifier(find_checkpoint(path), NAMES, 1, "token_classification")  # under a new head
    save(model, tmp_path / "before")
    args = TaskStudentArguments(learning_rate=3e-3, num_train_epochs=15, per_device_train_batch_size=8, bf16=False)
    trainer = build_trainer(model, tokenizer, tokenize(taught, tokenizer, 32), args, str(tmp_path / "o"), "s", teacher)
    trainer.train()
    trainer.save_model(tmp_path / "student")
    wanted, before, after = (
        answers_of("token_classification", load_trained(str(folder)).logits(words, max_length=32))
        for folder in (path, tmp_path / "before", tmp_path / "student")
    )
    assert agreement("token_classification", wanted, before) < 0.5
    assert agreement("token_classification", wanted, after) > 0.95


# Commands


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where commands run: a teacher at random, an encoder, and words whose labels can be learned."""
    monkeypatch.chdir(tmp_path)
    tagger(tmp_path / "teacher", names=["B-LOC", "B-PER", "I-LOC", "I-PER", "O"])
    save(tiny.masked_lm("bert", seed=5, num_hidden_layers=2), tmp_path / "encoder")
    write_rows(tmp_path / "train.jsonl", word_rows(160, 0))
    write_rows(tmp_path / "validation.jsonl", word_rows(40, 1))
    write_rows(tmp_path / "more.jsonl", [{"tokens": row["tokens"]} for row in word_rows(30, 2)])
    return tmp_path


COLUMNS = ["--text_column", "tokens", "--label_column", "ner_tags"]
SHORT = ["--max_length", "32", "--bf16", "false"]
DATA = ["--train", "train.jsonl", "--validation", "validation.jsonl", *COLUMNS, *SHORT]


def test_evaluate_learns_words_and_gives_a_classifier_that_distil_task_takes(place, capsys):
    told = ["evaluate", "--models", "encoder", *DATA, "--save_models", "--learning_rate", "2e-3", "--output_dir", "out"]
    complete(*told, "--num_train_epochs", "8", "--per_device_train_batch_size", "8")
    (result,) = json.loads((place / "out" / "results.json").read_text())["results"]
    assert result["entity_f1"] > 0.95
    assert "entity F1 %" in (place / "out" / "results.md").read_text()
    classifier = load_trained("out/encoder/classifier")
    rows = [json.loads(line) for line in (place / "validation.jsonl").read_text().splitlines()]
    right = total = 0
    for row in rows:  # each a word at a time, as the tokenizer makes one piece of each
        ids = tiny.tokenizer()(" ".join(row["tokens"]), return_tensors="pt").to(classifier.model.device)
        with torch.no_grad():
            codes = classifier.model(**ids).logits[0, 1:-1].argmax(-1).tolist()
        right += sum(classifier.class_names[code] == tag for code, tag in zip(codes, row["ner_tags"], strict=True))
        total += len(codes)
    assert result["token_accuracy"] == pytest.approx(right / total)
    capsys.readouterr()

    teacher = "out/encoder/classifier"
    complete("distill-task", "--teacher", teacher, *DATA, "--unlabelled", "more.jsonl", "--output_dir", "small")
    table = (place / "small" / "results.md").read_text()
    assert table in capsys.readouterr().out
    assert "161 labelled rows and 30 rows without" in table  # the one that all files hold is left out
    models = json.loads((place / "small" / "results.json").read_text())["models"]
    assert [each["name"] for each in models] == ["teacher", "student", "student, int8"]
    assert models[0]["scores"] == {"entity_f1": result["entity_f1"], "token_accuracy": result["token_accuracy"]}
    student = AutoModelForTokenClassification.from_pretrained(place / "small" / "student")
    assert student.config.intermediate_size == 32
    assert all(each["agreement"] > 0.5 for each in models)

    distilled = ["evaluate", "--models", "encoder", *DATA, "--distill_from", teacher, "--unlabelled", "more.jsonl"]
    complete(*distilled, "--output_dir", "again")
    (again,) = json.loads((place / "again" / "results.json").read_text())["results"]
    assert again["unlabelled_rows"] == 30
    complete("report", "small", "--output", "small.html")
    assert "entity F1 %" in (place / "small.html").read_text()


@pytest.mark.parametrize(
    ("source", "output"), [("a.jsonl", "b.parquet"), ("a.parquet", "b.csv"), ("a.jsonl", "b.jsonl")]
)
def test_predict_gives_each_word_its_label_and_how_probable_it_is(place, source, output):
    rows = [["w5", TWO_PIECES, NO_PIECE, "w6"], None, ["w1"] * 6]
    if source == "a.jsonl":
        write_rows(place / source, [{"tokens": row} for row in rows])
    else:
        pq.write_table(pa.table({"tokens": pa.array(rows, pa.list_(pa.string()))}), place / source)
    told = ["predict", "--model", "teacher", "--text", source, "--text_column", "tokens", "--max_length", "6"]
    complete(*told, "--output", output)
    if output == "b.parquet":
        found = pq.read_table(place / output).to_pylist()
    elif output == "b.jsonl":
        found = [json.loads(line) for line in (place / output).read_text().splitlines()]
    else:
        with (place / output).open(newline="") as file:
            found = [
                {name: json.loads(value) if value else None for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
    assert [list(row) for row in found] == [["tokens", "label", "probability"]] * 3
    assert [row["tokens"] for row in found] == rows
    assert found[1]["label"] is None
    teacher = load_trained("teacher")
    logits = teacher.logits([rows[0], rows[2]], max_length=6)
    for row, of_words in zip((found[0], found[2]), logits, strict=True):
        assert len(row["label"]) == len(row["probability"]) == len(row["tokens"])
        for word, (label, probability) in enumerate(zip(row["label"], row["probability"], strict=True)):
            if word >= 4 or of_words[word, 0] is np.ma.masked:
                assert label is probability is None
                continue
            powers = [math.exp(value) for value in of_words[word]]
            assert probability == pytest.approx(max(powers) / sum(powers), abs=1e-6)
            assert label == teacher.class_names[powers.index(max(powers))]
    assert [label is None for label in found[0]["label"]] == [False, False, True, False]
    assert [label is None for label in found[2]["label"]] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["predict", "--model", "teacher", "--text", "texts.csv", "--output", "a.csv"],
            "texts.csv: lists of words, which this classifier takes, are in jsonl or parquet files",
        ),
        (
            ["predict", "--model", "teacher", "--text", "texts.jsonl", "--output", "a.csv"],
            "texts.jsonl: line 1: column 'text' doesn't hold lists of words, which this classifier takes",
        ),
        (
            ["predict", "--model", "teacher", "--text", "texts.parquet", "--output", "a.csv"],
            "texts.parquet: column 'text' doesn't hold lists of words",
        ),
        (
            ["predict", "--model", "teacher", "--text", "holes.parquet", "--output", "a.csv"],
            "holes.parquet: column 'text' doesn't hold lists of words",
        ),
        (
            ["predict", "--model", "teacher", "--text", "a.csv", "--text_pair_column", "b", "--output", "a.jsonl"],
            "teacher classifies words, which have no pairs",
        ),
        (
            ["distill-task", "--teacher", "teacher", "--validation", "texts.jsonl", "--train", "texts.csv", *SHORT],
            "teacher can't be learned from: its answers are a class for each word of a row's list of words, but",
        ),
        (
            ["distill-task", "--teacher", "teacher", *DATA, "--unlabelled", "words.jsonl"],
            "words.jsonl: column 'tokens' holds texts, but that of the validation set lists of words",
        ),
        (
            ["distill-task", "--teacher", "encoder", *DATA],
            "the teacher encoder isn't a fine-tuned classifier",
        ),
        (
            ["distill-task", "--teacher", "teacher", *DATA, "--train", "other.jsonl"],
            "teacher can't be learned from: its classes are B-LOC, B-PER, I-LOC, I-PER, O, but those of the labels are",
        ),
    ],
)
def test_what_does_not_fit_words_is_refused_in_one_line(place, capfd, argv, message):
    (place / "texts.csv").write_text("text,label\nw1 w2,a\nw3,b\n")
    (place / "a.csv").write_text("text,b\nw1 w2,a\n")
    write_rows(place / "texts.jsonl", [{"text": "w1 w2", "label": "a"}, {"text": "w3", "label": "b"}])
    write_rows(place / "words.jsonl", [{"tokens": "w1 w2"}])
    write_rows(place / "other.jsonl", [{"tokens": ["w1", "w2"], "ner_tags": ["B-X", "O"]}])
    pq.write_table(pa.table({"text": ["w1"]}), place / "texts.parquet")
    pq.write_table(pa.table({"text": pa.array([["w1", None]], pa.list_(pa.string()))}), place / "holes.parquet")
    assert message in fail(capfd, *argv)


@pytest.mark.parametrize(("file", "rows"), [("train", "train on"), ("validation", "measure on")])
def test_words_of_which_the_tokenizer_leaves_nothing_are_told_where_there_are_no_others(place, capfd, file, rows):
    empty = [{"tokens": [NO_PIECE] * len(NAMES), "ner_tags": NAMES}]
    write_rows(place / f"{file}.jsonl", empty)
    assert main(["evaluate", "--models", "encoder", *DATA]) == 2
    said = f"tutorkd: error: no row to {rows} has a word of which the tokenizer leaves a token"
    assert capfd.readouterr().err.rstrip().endswith(said)
