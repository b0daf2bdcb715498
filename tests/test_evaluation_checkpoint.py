"""The head that a checkpoint gets for a new task, whatever it brings."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from commands import save, save_causal
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import check_checkpoint, find_checkpoint, load_classifier
from tutorkd.evaluation.classifier import load_trained
from tutorkd.export.arguments import ExportArguments
from tutorkd.export.rows import rows_to_check_on
from tutorkd.export.source import load_source
from tutorkd.hub import load_tokenizer

FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert"]
OTHER_ORDER = {"contradiction": 0, "entailment": 1, "neutral": 2}
CLASSES = ["entailment", "neutral", "contradiction"]


def _classifier(family, **config):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(tiny.config(family, **config)).eval()


def _parts(model):
    """Weights of the encoder and of the head."""
    body = f"{model.base_model_prefix}."
    weights = model.state_dict()
    return tuple({k: v for k, v in weights.items() if k.startswith(body) is part} for part in (True, False))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_classifier_with_its_own_label_order_is_replaced_and_its_encoder_kept(family, tmp_path):
    trained = _classifier(family, num_labels=3, label2id=OTHER_ORDER, id2label={v: k for k, v in OTHER_ORDER.items()})
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)  # so that no weight, a bias or a norm, is what a new one would be
    found = find_checkpoint(save(trained, tmp_path / "mnli"))
    model, _ = load_classifier(found, CLASSES, seed=3)
    assert model.config.id2label == dict(enumerate(CLASSES))
    (encoder, head), (of_trained, trained_head) = _parts(model), _parts(trained)
    assert all(torch.equal(weight, of_trained[name]) for name, weight in encoder.items())
    assert head.keys() == trained_head.keys()
    assert not any(torch.equal(weight, trained_head[name]) for name, weight in head.items())
    again, _ = load_classifier(found, CLASSES, seed=3)
    other, _ = load_classifier(found, CLASSES, seed=4)
    assert all(torch.equal(weight, head[name]) for name, weight in _parts(again)[1].items())
    assert not all(torch.equal(weight, head[name]) for name, weight in _parts(other)[1].items())


def test_a_head_of_other_classes_is_replaced_whole(tmp_path):
    trained = _classifier("roberta", num_labels=5)  # a dense layer of no particular size stands before the classes
    model, _ = load_classifier(find_checkpoint(save(trained, tmp_path / "five")), ["no", "yes"], seed=0)
    assert model.classifier.out_proj.out_features == 2
    assert not torch.equal(model.classifier.dense.weight, trained.classifier.dense.weight)


def test_an_mlm_head_that_a_classifier_shares_is_kept(tmp_path):
    masked = tiny.masked_lm("modernbert")
    model, _ = load_classifier(find_checkpoint(save(masked, tmp_path / "mlm")), ["no", "yes"], seed=0)
    assert torch.equal(model.head.dense.weight, masked.head.dense.weight)


@pytest.mark.parametrize(("before", "classes"), [("regression", ["no", "yes"]), (None, ["similarity"])])
def test_one_class_name_makes_a_regression_and_two_a_classifier_whatever_it_was_before(before, classes, tmp_path):
    labels = 1 if before else 2
    path = save(_classifier("bert", num_labels=labels, problem_type=before), tmp_path / "model")
    model, _ = load_classifier(find_checkpoint(path), classes, seed=0)
    ids = torch.tensor([[2, 10, 11, 3], [2, 12, 13, 3]])
    if len(classes) == 1:
        targets = torch.tensor([0.5, 4.5])
        output = model(input_ids=ids, labels=targets)
        assert output.loss == F.mse_loss(output.logits[:, 0], targets)
    else:
        output = model(input_ids=ids, labels=torch.tensor([0, 1]))
        log = output.logits.log_softmax(-1)
        assert output.loss.item() == pytest.approx(-(log[0, 0] + log[1, 1]).item() / 2)


def test_the_longest_row_is_known_without_loading_weights(tmp_path):
    found = find_checkpoint(save(tiny.masked_lm("bert"), tmp_path / "model"))
    assert check_checkpoint(found, None) == 64


def test_a_decoder_s_tokenizer_without_padding_is_answered_with_what_gives_it_one(tmp_path):
    path = save_causal(tiny.tiny_causal(), tmp_path / "model")
    with pytest.raises(UserError, match=r"no pad_token.*; give it one: tokenizer.pad_token = tokenizer.eos_token, and"):
        check_checkpoint(find_checkpoint(path), None)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(path)
    assert check_checkpoint(find_checkpoint(path), None) == 64


@pytest.mark.parametrize("lacking", ["mask_token", "cls_token", "sep_token", "pad_token"])
def test_of_the_special_tokens_only_the_padding_is_asked_for(lacking, tmp_path):
    path = save(tiny.masked_lm("bert"), tmp_path / "model")
    tokens = {name: token for name, token in tiny.tokenizer().special_tokens_map.items() if name != lacking}
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer, **tokens).save_pretrained(path)
    found = find_checkpoint(path)
    if lacking == "pad_token":
        with pytest.raises(UserError, match="has no pad_token, which batches of rows need"):
            check_checkpoint(found, None)
    else:
        check_checkpoint(found, None)
        assert getattr(load_classifier(found, ["no", "yes"], seed=0)[1], lacking) is None
        rows = rows_to_check_on(ExportArguments(model=path), load_source(found)).rows
        assert all(None not in row["input_ids"] for row in rows)
    with pytest.raises(UserError, match=f"has no {lacking}, which masked language modelling needs"):
        load_tokenizer(path, "teacher")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({1: "a", 2: "b"}, r"id2label in its config.json must number them from 0 to 1, and has 1, 2$"),
        ({0: "a", 1: "b", 2: "a"}, r"id2label in its config.json has 'a' twice; give each a name of its own$"),
    ],
)
def test_classes_that_can_t_be_told_are_refused_in_one_line(tmp_path, names, message):
    config = tiny.config("bert")
    config.id2label = names
    save(AutoModelForSequenceClassification.from_config(config), tmp_path)
    with pytest.raises(UserError, match=message):
        assert load_trained(str(tmp_path)).class_names
