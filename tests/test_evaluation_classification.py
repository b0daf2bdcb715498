"""Fine-tuning and comparison of tiny encoders on data where the right answers are known."""

import json
import random
from dataclasses import fields, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from commands import set_json
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    RobertaConfig,
    Trainer,
    ViTConfig,
    ViTModel,
)

from tutorkd.errors import UserError
from tutorkd.evaluation import finetune
from tutorkd.evaluation.arguments import EvaluateArguments, FineTuneArguments
from tutorkd.evaluation.checkpoint import check_checkpoint, find_checkpoint, load_classifier
from tutorkd.evaluation.classification import evaluate_models, evaluation_plan
from tutorkd.evaluation.classifier import Classifier
from tutorkd.evaluation.cost import milliseconds_in_turns, milliseconds_per_sentence
from tutorkd.evaluation.finetune import build_trainer, predict, run_training, tokenize

WORDS = [f"{kind}{number}" for kind, count in (("good", 10), ("bad", 10), ("the", 70)) for number in range(count)]
POSITIONS = 64


def tokenizer(start, end, pad, token_types):
    """A word-level tokenizer: [pad, unk, start, end, mask, words] in RoBERTa's order if pad is "<pad>"."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if pad == "<pad>" else [pad, "[UNK]", start, end, "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special[3] if pad == "<pad>" else "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, vocabulary[token]) for token in (start, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=start,
        sep_token=end,
        pad_token=pad,
        unk_token="<unk>" if pad == "<pad>" else "[UNK]",
        mask_token="<mask>" if pad == "<pad>" else "[MASK]",
        model_input_names=["input_ids", *["token_type_ids"] * token_types, "attention_mask"],
    )


def bert_tokenizer():
    return tokenizer("[CLS]", "[SEP]", "[PAD]", token_types=True)


SIZE = {
    "vocab_size": len(WORDS) + 5,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.05,
}
BERT = BertConfig(**SIZE, intermediate_size=64, max_position_embeddings=POSITIONS)
# 2 positions stand before a RoBERTa row's first token.
ROBERTA = RobertaConfig(**SIZE, intermediate_size=64, max_position_embeddings=POSITIONS + 2, pad_token_id=1)
DISTILBERT = DistilBertConfig(
    vocab_size=len(WORDS) + 5,
    dim=32,
    n_layers=2,
    n_heads=2,
    hidden_dim=64,
    max_position_embeddings=POSITIONS,
    initializer_range=0.05,
)


def save_model(folder, config=BERT, head=AutoModel, tokens=None, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    head.from_config(config).to(dtype).save_pretrained(folder)
    (tokens or bert_tokenizer()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def bert(tmp_path):
    return save_model(tmp_path / "bert")


def sentences(count, seed, longest=6):
    """Texts of one good or bad word among neutral ones, and their classes 1 or 0, in turn."""
    draw = random.Random(seed)
    labels = [index % 2 for index in range(count)]
    texts = []
    for label in labels:
        words = [f"the{draw.randrange(70)}" for _ in range(draw.randint(2, longest))]
        words.insert(draw.randint(0, len(words)), f"{('bad', 'good')[label]}{draw.randrange(10)}")
        texts.append(" ".join(words))
    return texts, labels


def write_jsonl(path, texts, labels):
    lines = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path):
    """400 training rows; 100 validation rows of which 10 of class 1 are labelled 0."""
    texts, labels = sentences(100, seed=2)
    wrong = [index for index, label in enumerate(labels) if label == 1][:10]
    labels = [0 if index in wrong else label for index, label in enumerate(labels)]
    return {
        "train": write_jsonl(tmp_path / "train.jsonl", *sentences(400, seed=1)),
        "validation": write_jsonl(tmp_path / "validation.jsonl", texts, labels),
    }


@pytest.fixture
def arguments(tmp_path, data):
    return EvaluateArguments(
        **data,
        output_dir=str(tmp_path / "out"),
        max_length=32,
        learning_rate=3e-3,
        num_train_epochs=6,
        bf16=False,
        seed=1,
    )


@pytest.fixture
def no_training(monkeypatch):
    def train(*args, **options):
        raise AssertionError("trained")

    monkeypatch.setattr(Trainer, "train", train)


def rows_of(texts, labels, names=("0", "1")):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


@pytest.mark.parametrize(
    ("config", "head", "tokens"),
    [
        (BERT, AutoModelForMaskedLM, bert_tokenizer()),
        (BERT, AutoModel, bert_tokenizer()),
        (DISTILBERT, AutoModel, bert_tokenizer()),  # a student behind its BERT teacher's tokenizer
        (ROBERTA, AutoModelForMaskedLM, tokenizer("<s>", "</s>", "<pad>", token_types=False)),
    ],
    ids=["bert-mlm", "bert", "distilbert", "roberta-mlm"],
)
def test_separable_data_are_learned_and_the_figures_are_right(tmp_path, arguments, config, head, tokens, capfd):
    model = save_model(tmp_path / "model", config, head, tokens)
    (result,) = evaluate_models([model], arguments)
    # 10 of 100 labels are wrong. Class 1: 40 found, 10 too many, none missed; class 0: 50 found, 10 missed.
    assert result.accuracy == pytest.approx(0.9)
    assert result.standard_error == pytest.approx(0.03)
    assert result.scores["macro_f1"] == pytest.approx((80 / 90 + 100 / 110) / 2)
    assert (result.train_rows, result.validation_rows) == (400, 100)
    assert result.name == model
    assert result.bytes == (tmp_path / "model" / "model.safetensors").stat().st_size
    classifier = AutoModelForSequenceClassification.from_config(config)
    assert result.parameters == sum(weight.numel() for weight in classifier.parameters())
    assert result.milliseconds_per_sentence > 0
    assert result.threads == torch.get_num_threads()

    printed = capfd.readouterr()
    assert printed.out == ""
    assert "2400/2400" in printed.err  # 400 rows, 6 epochs
    assert "sentences/s" in printed.err
    assert "accuracy 90.0 ± 3.0 %" in printed.err
    for noise in ("{'", "LOAD REPORT", "newly initialized", "Warning"):
        assert noise not in printed.err


def test_written_results_hold_what_is_returned(tmp_path, arguments, bert):
    other = save_model(tmp_path / "other", seed=1)
    arguments = replace(arguments, num_train_epochs=0.1)
    results = evaluate_models([bert, other], arguments)
    out = tmp_path / "out"
    written = json.loads((out / "results.json").read_text())
    assert [entry["name"] for entry in written["results"]] == [bert, other]
    assert [entry["accuracy"] for entry in written["results"]] == [result.accuracy for result in results]
    assert written["settings"]["learning_rate"] == 3e-3
    table = (out / "results.md").read_text().splitlines()
    assert [line.split(" | ")[0].rstrip() for line in table[2:4]] == ["| bert", "| other"]
    assert len(list(out.glob("*/result.json"))) == 2
    assert not list(out.rglob("*.partial"))


def test_same_seed_same_figures(bert, arguments):
    arguments = replace(arguments, num_train_epochs=0.5, learning_rate=1e-3, restart=True)
    first, second = (evaluate_models([bert], arguments)[0] for _ in range(2))
    assert first.scores == second.scores


@pytest.fixture
def finished(bert, arguments):
    """Arguments with which ``bert`` has been evaluated, and its result."""
    arguments = replace(arguments, num_train_epochs=0.1)
    (result,) = evaluate_models([bert], arguments)
    return arguments, result


def test_finished_model_is_not_trained_again(finished, bert, no_training):
    arguments, result = finished
    assert evaluate_models([bert], arguments) == [result]
    # A path written in another way is the same model, under the name that was given.
    assert evaluate_models([f"{bert}/../bert"], arguments) == [replace(result, name=f"{bert}/../bert")]


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-4},
        {"seed": 2},
        {"max_length": 31},
        {"bf16": True},
        {"max_train_samples": 10},
    ],
    ids=lambda change: next(iter(change)),
)
def test_results_of_other_settings_are_neither_mixed_nor_lost(finished, bert, no_training, tmp_path, change):
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    (name, value), *_ = change.items()
    with pytest.raises(UserError, match=rf"out holds another run \({name}: .* there, {value} now.*\); choose another "):
        evaluate_models([bert], replace(finished[0], **change))
    with pytest.raises(UserError, match="holds another run"):
        evaluation_plan([bert], replace(finished[0], **change))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before


def test_restart_throws_results_away(finished, bert, tmp_path):
    (tmp_path / "out" / "other").mkdir()
    (tmp_path / "out" / "other" / "result.json").write_text('{"settings": {}}')  # not of ours
    changed = replace(finished[0], num_train_epochs=0.2, restart=True)
    (result,) = evaluate_models([bert], changed)
    assert evaluate_models([bert], replace(changed, restart=False)) == [result]
    assert (tmp_path / "out" / "other" / "result.json").exists()


def test_restart_trains_again(finished, bert, no_training):
    with pytest.raises(AssertionError, match="trained"):
        evaluate_models([bert], replace(finished[0], restart=True))


def test_a_plan_tells_sizes_and_steps_and_writes_nothing(bert, arguments, no_training, tmp_path):
    plan = evaluation_plan([bert], replace(arguments, num_train_epochs=1.5))
    size = (tmp_path / "bert" / "model.safetensors").stat().st_size
    assert plan["model bert"] == f"{size / 1e6:.1f} MB"
    assert plan["rows"] == "400 to train on, 100 to measure on"
    assert plan["classes"] == "0, 1"
    assert plan["steps"] == "20 a model, of 32 rows"  # 13 batches, one and a half times
    assert not (tmp_path / "out").exists()


def test_classes_that_pandas_wrote_as_decimals_are_told_to_be_taken_as_numbers(bert, arguments, tmp_path, capsys):
    for labels, told in (([0.0, 1.0] * 4, True), ([0.0, 0.5] * 4, False)):
        path = write_jsonl(tmp_path / "decimals.jsonl", sentences(8, seed=1)[0], labels)
        evaluation_plan([bert], replace(arguments, train=path, validation=path))
        said = "labels: 0.0, 1.0: as decimals they are predicted as numbers; for classes, write them without"
        assert (said in capsys.readouterr().err) == told


def test_a_plan_tells_finished_models_and_fails_as_the_run_would(finished, bert, no_training, tmp_path):
    assert evaluation_plan([bert], finished[0])["model bert"].endswith("MB, finished")
    with pytest.raises(UserError, match="there is no such file"):
        evaluation_plan([bert], replace(finished[0], validation=str(tmp_path / "none.csv")))
    with pytest.raises(UserError, match="there is no such folder"):
        evaluation_plan([str(tmp_path / "none")], finished[0])


def test_a_model_that_gives_one_class_alone_is_told(bert, arguments, tmp_path, capfd):
    texts, _ = sentences(40, seed=3)
    train = write_jsonl(tmp_path / "lopsided.jsonl", texts, [1, *[0] * 39])
    (result,) = evaluate_models([bert], replace(arguments, train=train, learning_rate=1e-5, num_train_epochs=8))
    assert result.only_class in ("0", "1")
    assert f"it hasn't learned: every row is given the class '{result.only_class}'" in capfd.readouterr().err
    assert "These learned nothing and give every row the same class" in (tmp_path / "out" / "results.md").read_text()


def test_other_number_of_threads_measures_again(finished, bert, no_training, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(AssertionError, match="trained"):
        evaluate_models([bert], finished[0])


def test_other_weights_train_again(finished, bert, no_training, tmp_path):
    save_model(tmp_path / "bert", seed=1)
    with pytest.raises(AssertionError, match="trained"):
        evaluate_models([bert], finished[0])


def test_other_data_under_the_same_name_are_other_settings(finished, bert, no_training, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", *sentences(400, seed=3))
    with pytest.raises(UserError, match=r"holds another run \(data_sha256: "):
        evaluate_models([bert], finished[0])


@pytest.mark.parametrize("content", ["{", '{"settings": {}, "weights": {}, "result": {"name": "a"}}'])
def test_damaged_record_trains_again(finished, bert, no_training, tmp_path, content):
    (record,) = (tmp_path / "out").glob("*/result.json")
    record.write_text(content)
    with pytest.raises(AssertionError, match="trained"):
        evaluate_models([bert], finished[0])


def test_interrupted_comparison_keeps_the_finished_models(bert, arguments, tmp_path, monkeypatch):
    arguments = replace(arguments, num_train_epochs=0.1)
    other = save_model(tmp_path / "other", seed=1)
    train = Trainer.train
    calls = []

    def interrupted(self, *args, **options):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(self, *args, **options)

    monkeypatch.setattr(Trainer, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_models([bert, other], arguments)
    assert not (tmp_path / "out" / "results.json").exists()
    evaluate_models([bert, other], arguments)
    assert len(calls) == 3


def test_training_subset_is_drawn_from_all_of_sorted_data(bert, arguments, tmp_path):
    texts, labels = sentences(400, seed=1)
    path = write_jsonl(tmp_path / "sorted.jsonl", texts[0::2] + texts[1::2], labels[0::2] + labels[1::2])
    (result,) = evaluate_models([bert], replace(arguments, train=path, max_train_samples=64, num_train_epochs=0.5))
    assert result.train_rows == 64
    with pytest.raises(UserError, match="the 1 rows of max_train_samples hold one class only"):
        evaluate_models([bert], replace(arguments, train=path, max_train_samples=1))


def test_classifier_knows_the_class_names_and_is_float32(tmp_path):
    path = save_model(tmp_path / "half", dtype=torch.bfloat16)
    model, _ = load_classifier(find_checkpoint(path), ["no", "perhaps", "yes"], seed=0)
    assert model.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert model.config.label2id == {"no": 0, "perhaps": 1, "yes": 2}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_new_head_depends_on_the_seed_alone(bert):
    first, again, other = (
        load_classifier(find_checkpoint(bert), ["0", "1"], seed)[0].classifier.weight for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_classifier_for_other_classes_is_replaced(tmp_path):
    config = BertConfig(**BERT.to_diff_dict() | {"num_labels": 5})
    path = save_model(tmp_path / "five", config, AutoModelForSequenceClassification)
    model, _ = load_classifier(find_checkpoint(path), ["no", "yes"], seed=0)
    assert model.classifier.out_features == 2
    saved = load_file(tmp_path / "five" / "model.safetensors")
    weight = model.bert.encoder.layer[1].output.dense.weight
    assert torch.equal(weight, saved["bert.encoder.layer.1.output.dense.weight"])


def make_trainer(path, rows, tmp_path, **options):
    model, tokens = load_classifier(find_checkpoint(path), ["0", "1"], seed=0)
    args = FineTuneArguments(**{"bf16": False, **options})
    return build_trainer(model, tokens, tokenize(rows, tokens, args.max_length), args, str(tmp_path / "t"), "t")


def test_copies_to_a_gpu_are_from_pinned_memory_and_nobody_waits_for_them(bert, tmp_path, monkeypatch):
    def arguments(**given):
        told.update(given)
        raise ValueError("seen")

    told = {}
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(finetune, "TrainingArguments", arguments)
    with pytest.raises(UserError, match="seen"):
        make_trainer(bert, rows_of(*sentences(4, seed=0)), tmp_path)
    assert told["dataloader_pin_memory"]
    assert told["accelerator_config"] == {"non_blocking": True}


def test_predictions_keep_the_order_of_the_rows(bert, tmp_path):
    rows = rows_of(*sentences(150, seed=5, longest=40))
    trainer = make_trainer(bert, rows, tmp_path)
    model, tokens = trainer.model.eval(), trainer.processing_class
    model.classifier.weight.data.mul_(100)  # answers that differ by more than rounding
    with torch.no_grad():
        inputs = [tokens(text, return_tensors="pt").to(model.device) for text in rows["text"]]
        alone = [model(**row).logits[0].cpu().numpy() for row in inputs]
    logits = predict(Classifier("a", model, tokens, None), rows, POSITIONS)
    assert logits.shape == (150, 2)
    assert np.allclose(logits, alone, atol=1e-4)
    assert not np.allclose(logits, np.roll(alone, 1, axis=0), atol=1e-2)


def test_a_model_fine_tuned_in_bfloat16_answers_in_float32_as_it_is_saved(bert, tmp_path):
    """Under autocast logits would be rounded to 8 bits, and many of these 150 would be equal."""
    rows = rows_of(*sentences(150, seed=5, longest=40))
    trainer = make_trainer(bert, rows, tmp_path, bf16=True, num_train_epochs=1.0)
    assert run_training(trainer) > 0
    tokens = trainer.processing_class
    trainer.model.save_pretrained(tmp_path / "saved")
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        expected = [saved(**tokens(text, return_tensors="pt")).logits[0].numpy() for text in rows["text"]]
    classifier = Classifier("a", trainer.model.eval(), tokens, None)
    np.testing.assert_allclose(predict(classifier, rows, POSITIONS), expected, atol=1e-5)


def test_a_family_that_fails_in_bfloat16_and_full_memory_are_told_in_a_line(bert, tmp_path, monkeypatch):
    """DeBERTa's first version, for one, fills masks with a number that bfloat16 can't hold."""
    rows = rows_of(*sentences(8, seed=5))
    in_bfloat16, in_float32 = (make_trainer(bert, rows, tmp_path, bf16=told) for told in (True, False))
    overflow = "value cannot be converted to type c10::BFloat16 without overflow\nat 1"

    def failing(error):
        def train(*args, **options):
            raise error

        monkeypatch.setattr(Trainer, "train", train)

    failing(RuntimeError(overflow))
    with pytest.raises(UserError, match=r"^fine-tuning in bfloat16 failed; try --bf16 false .*overflow") as raised:
        run_training(in_bfloat16)
    assert "\n" not in str(raised.value)
    with pytest.raises(RuntimeError, match="overflow") as other:
        run_training(in_float32)
    assert not isinstance(other.value, UserError)
    failing(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB"))
    for trainer in (in_bfloat16, in_float32):
        with pytest.raises(UserError, match=r"^memory ran out: lower the rows of a step or max_length ") as raised:
            run_training(trainer)
        assert "\n" not in str(raised.value)


def test_rows_of_like_length_share_a_batch(bert, tmp_path):
    texts = [" ".join(["the0"] * (3 if index % 2 else 40)) for index in range(256)]
    rows = rows_of(texts, [index % 2 for index in range(256)])
    batches = list(make_trainer(bert, rows, tmp_path, per_device_train_batch_size=8).get_train_dataloader())
    masks = [batch["attention_mask"] for batch in batches]
    real = sum(mask.sum().item() for mask in masks)
    assert real == 128 * (5 + 42)  # every token once, [CLS] and [SEP] included
    assert real / sum(mask.numel() for mask in masks) > 0.85  # mixed batches: 0.56


def test_warm_up_is_a_share_of_the_steps(bert, tmp_path):
    trainer = make_trainer(bert, rows_of(*sentences(4, seed=0)), tmp_path, warmup_ratio=0.1, learning_rate=1.0)
    trainer.create_optimizer_and_scheduler(num_training_steps=40)
    rates = []
    for _ in range(41):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    expected = [step / 4 for step in range(4)] + [(40 - step) / 36 for step in range(4, 41)]
    assert rates == pytest.approx(expected)


def test_pairs_are_cut_at_the_longer_part():
    tokens = bert_tokenizer()
    rows = Dataset.from_dict({"text": ["good0 " * 20], "text_pair": ["bad0 bad1"], "label": [1]})
    (row,) = tokenize(rows, tokens, 10)
    words = tokens.convert_ids_to_tokens(row["input_ids"])
    assert words == ["[CLS]", *["good0"] * 5, "[SEP]", "bad0", "bad1", "[SEP]"]
    assert row["token_type_ids"] == [0] * 7 + [1] * 3
    assert row["label"] == 1


def test_pairs_are_learned(bert, arguments, tmp_path):
    """The class is that of the second text."""
    for name, count, seed in (("train", 400, 1), ("validation", 60, 2)):
        texts, labels = sentences(count, seed, longest=3)
        lines = [
            json.dumps({"first": f"the{index % 30}", "second": text, "label": ("no", "yes")[label]})
            for index, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (result,) = evaluate_models([bert], replace(arguments, text_column="first", text_pair_column="second"))
    assert result.accuracy == 1
    assert result.standard_error == 0


def test_latency_is_the_median_with_quartiles_after_a_warm_up(monkeypatch):
    """The clock moves with each answer: by 1 s in the 10 of the warm-up, then by 3, 100 and 5 ms."""
    now = [0.0]
    answers = iter([1.0] * 10 + [0.003, 0.1, 0.005])
    seen = []

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, **inputs):
            now[0] += next(answers)
            seen.append((tuple(input_ids.shape), self.training, torch.is_grad_enabled()))
            return type("Output", (), {"logits": torch.zeros(1, 2)})

    monkeypatch.setattr("tutorkd.evaluation.cost.time.perf_counter", lambda: now[0])
    texts = ["the0 good1", ("the0", "bad1 bad2"), "the1 " * 50]
    (found,) = milliseconds_per_sentence([(Model().train(), bert_tokenizer())], texts, max_length=8)
    assert found == pytest.approx((5, 4, 52.5))  # quartiles halfway to the neighbours
    # No padding: 2 words, 1 + 2 words, a cut row, each with its special tokens; no dropout, no gradients.
    assert seen[-3:] == [((1, length), False, False) for length in (4, 6, 8)]
    assert len(seen) == 13


def test_a_machine_that_becomes_busy_slows_all_models_alike(monkeypatch):
    """From the middle on all takes ten times as long: half of the calls of each."""
    now, calls = [0.0], [0]

    def answering(seconds):
        def answer(item):
            calls[0] += 1
            now[0] += seconds * (10 if calls[0] > 16 else 1)

        return answer

    monkeypatch.setattr("tutorkd.evaluation.cost.time.perf_counter", lambda: now[0])
    first, second = milliseconds_in_turns([answering(0.001), answering(0.002)], range(16), warm_up=0)
    assert first == pytest.approx((5.5, 1, 10))
    assert second == pytest.approx((11, 2, 20))


def test_hub_model_is_known_by_its_revision(bert, tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshots" / "abc123"
    snapshot.parent.mkdir()
    (tmp_path / "bert").rename(snapshot)
    monkeypatch.setattr("tutorkd.evaluation.checkpoint.snapshot_download", lambda name, **options: str(snapshot))
    found = find_checkpoint("organisation/bert")
    size = (snapshot / "model.safetensors").stat().st_size
    assert found.identity == {"source": "organisation/bert", "revision": "abc123", "bytes": size}
    assert (found.bytes, found.folder, found.title) == (size, str(snapshot), "organisation/bert")


def test_size_of_sharded_weights_is_their_sum(tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(BERT).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    shards = list((tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 1
    assert find_checkpoint(str(tmp_path / "sharded")).bytes == sum(shard.stat().st_size for shard in shards)


def spoil_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_incomplete_encoder_is_refused(bert, arguments, tmp_path):
    spoil_weights(tmp_path / "bert", lambda weights: weights.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(
        UserError, match=r"isn't a whole bert model: 1 weights .*bert\.encoder\.layer\.1\.output\.dense"
    ):
        evaluate_models([bert], arguments)


def test_encoder_of_another_shape_is_refused(bert, arguments, tmp_path):
    set_json(tmp_path / "bert" / "config.json", intermediate_size=48)
    with pytest.raises(UserError, match="isn't a whole bert model: 6 weights"):
        evaluate_models([bert], arguments)


def test_damaged_weights_are_refused(bert, arguments, tmp_path):
    path = tmp_path / "bert" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="can't be loaded"):
        evaluate_models([bert], arguments)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", r"has no weights: there is no model.safetensors"),
        ("config.json", "isn't a checkpoint: there is no config.json in it$"),
        ("tokenizer*", "has no tokenizer: there is no vocabulary in its folder; save its tokenizer there"),
    ],
)
def test_missing_part_of_a_checkpoint(bert, arguments, tmp_path, no_training, missing, message):
    for path in (tmp_path / "bert").glob(missing):
        path.unlink()
    with pytest.raises(UserError, match=message) as raised:
        evaluate_models([bert], arguments)
    assert "\n" not in str(raised.value)


def test_an_exported_model_is_answered_with_what_to_name(arguments, tmp_path):
    (tmp_path / "exported" / "onnx").mkdir(parents=True)
    (tmp_path / "exported" / "onnx" / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no weights.*exported to ONNX: name the folder that it was exported from"):
        evaluate_models([str(tmp_path / "exported")], arguments)


@pytest.mark.parametrize("name", ["/no/such/model", "./none", "no-such-organisation/no-such-model", "a b"])
def test_model_not_found(arguments, name):
    with pytest.raises(UserError, match=name) as raised:
        evaluate_models([name], arguments)
    assert "\n" not in str(raised.value)


def test_tokenizer_of_another_model_is_refused(tmp_path, arguments):
    model = save_model(tmp_path / "small", BertConfig(**BERT.to_diff_dict() | {"vocab_size": 50}))
    with pytest.raises(UserError, match="embeds 50 tokens, but its tokenizer has 95"):
        evaluate_models([model], arguments)


def test_family_without_text_classifier_is_refused(tmp_path, arguments):
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ViTModel(config).save_pretrained(tmp_path / "vit")
    bert_tokenizer().save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match="transformers has no sequence classifier for vit"):
        evaluate_models([str(tmp_path / "vit")], arguments)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (BERT, bert_tokenizer()),
        (DISTILBERT, bert_tokenizer()),
        (ROBERTA, tokenizer("<s>", "</s>", "<pad>", token_types=False)),
    ],
    ids=["bert", "distilbert", "roberta"],
)
def test_rows_longer_than_the_positions_are_refused(tmp_path, config, tokens):
    found = find_checkpoint(save_model(tmp_path / "model", config, tokens=tokens))
    check_checkpoint(found, POSITIONS)
    with pytest.raises(UserError, match=f"max_length {POSITIONS + 1} is longer than the {POSITIONS} positions"):
        check_checkpoint(found, POSITIONS + 1)
    # The limit is real: a row of that length goes through, a longer one doesn't.
    model, tokens = load_classifier(found, ["0", "1"], seed=0)
    for length in (POSITIONS, POSITIONS + 1):
        inputs = tokens("the0 " * (length - 2), return_tensors="pt")
        if length == POSITIONS:
            assert model(**inputs).logits.isfinite().all()
        else:
            with pytest.raises((IndexError, RuntimeError)):
                model(**inputs)


def test_the_fine_tuned_model_is_kept_where_asked_and_gives_the_answers_that_were_measured(bert, arguments, capfd):
    (without,) = evaluate_models([bert], arguments)
    (record,) = Path(arguments.output_dir).glob("*/result.json")
    folder = record.with_name("classifier")
    assert not folder.exists()
    arguments = replace(arguments, save_models=True)
    (result,) = evaluate_models([bert], arguments)
    assert result.accuracy == without.accuracy
    assert f"its classifier is {folder}" in capfd.readouterr().err
    model, tokens = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = datasets.load_dataset("json", data_files=arguments.validation, split="train")
    with torch.no_grad():
        answers = model(**tokens(rows["text"][:], padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
    right = [model.config.id2label[answer] == str(label) for answer, label in zip(answers, rows["label"], strict=True)]
    assert sum(right) / len(right) == pytest.approx(result.accuracy)
    saved = (folder / "model.safetensors").stat().st_mtime_ns
    evaluate_models([bert], arguments)
    evaluate_models([bert], replace(arguments, save_models=False))
    assert (folder / "model.safetensors").stat().st_mtime_ns == saved
    (folder / "model.safetensors").unlink()
    evaluate_models([bert], arguments)  # what was lost is made again
    assert (folder / "model.safetensors").is_file()


def test_a_full_disk_while_a_classifier_is_kept_leaves_its_result(bert, arguments, tmp_path, monkeypatch, no_disk):
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", no_disk)
        with pytest.raises(UserError) as refused:
            evaluate_models([bert], replace(arguments, save_models=True))
    message = str(refused.value)
    (record,) = (tmp_path / "out").glob("*/result.json")
    assert "classifier couldn't be written ([Errno 28] No space left on device); the result is in" in message
    assert f"{record}; free space, then the same command fine-tunes the model again" in message
    assert json.loads(record.read_text())["result"]["accuracy"] >= 0
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr("tutorkd.evaluation.classification._Run._measure", None)  # isn't called
        evaluate_models([bert], replace(arguments, save_models=False))
    evaluate_models([bert], replace(arguments, save_models=True))
    assert (record.parent / "classifier" / "model.safetensors").is_file()


@pytest.fixture
def no_disk():
    def save(*args, **kwargs):
        raise OSError(28, "No space left on device")

    return save


def test_every_model_is_checked_before_the_first_is_trained(bert, arguments, no_training):
    with pytest.raises(UserError, match="no/model"):
        evaluate_models([bert, "/no/model"], arguments)


def test_validation_labels_that_training_lacks(bert, arguments, no_training, tmp_path):
    path = write_jsonl(tmp_path / "validation.jsonl", *(["a", "b"], [1, 2]))
    with pytest.raises(UserError, match="has labels that the training data lack: 2"):
        evaluate_models([bert], replace(arguments, validation=path))


def test_divergence_is_told(bert, arguments):
    with pytest.raises(UserError, match=r"diverged: .*lower the learning_rate"):
        evaluate_models([bert], replace(arguments, learning_rate=1e30, num_train_epochs=1))


def test_output_folder_that_is_a_file(bert, arguments, no_training, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the output folder .*file can't be made"):
        evaluate_models([bert], replace(arguments, output_dir=str(tmp_path / "file")))


def test_nothing_to_evaluate(arguments, bert):
    with pytest.raises(UserError, match="no model to evaluate"):
        evaluate_models([], arguments)
    with pytest.raises(UserError, match="no validation data"):
        evaluate_models([bert], replace(arguments, validation=""))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_length", 0),
        ("learning_rate", -1e-5),
        ("per_device_train_batch_size", 0),
        ("num_train_epochs", 0),
        ("max_train_samples", 0),
        ("warmup_ratio", 1.0),
        ("warmup_ratio", -0.1),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(UserError, match=f"{name} must be .*, not {value}"):
        EvaluateArguments(**{name: value})


def test_every_setting_is_a_flag_with_a_sentence():
    assert all(setting.metadata["help"].endswith(".") for setting in fields(EvaluateArguments))
    flags = "--models a b --train t.csv --bf16 false --max_train_samples 5 --learning_rate 1e-4 --restart"
    (parsed,) = HfArgumentParser(EvaluateArguments).parse_args_into_dataclasses(flags.split())
    assert parsed == EvaluateArguments(
        models=["a", "b"], train="t.csv", bf16=False, max_train_samples=5, learning_rate=1e-4, restart=True
    )
