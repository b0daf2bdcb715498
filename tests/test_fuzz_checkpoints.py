"""The JSON files of a checkpoint, of any content: it is loaded, or refused in one line."""

import json

import pytest
import tiny
from commands import save
from fuzz import damaged_json, fuzzed, or_refused
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM

from tutorkd.data.corpus import check_corpus
from tutorkd.data.packing import Encoder
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import check_checkpoint, find_checkpoint, load_classifier
from tutorkd.export.source import load_source
from tutorkd.hub import load_model, load_tokenizer
from tutorkd.kinds import kind_of_checkpoint
from tutorkd.objective import MASKED
from tutorkd.positions import check_positions
from tutorkd.students import build_student
from tutorkd.teacher import load_teacher

FILES = ["config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save(tiny.masked_lm(num_hidden_layers=1), folder)
    (folder / "texts.txt").write_text("w1 w2")
    return folder


def commands_load(folder):
    """What adapt and distill, evaluate and glue, and export do with a checkpoint before they train or write."""
    kind_of_checkpoint(str(folder))
    tokenizer = load_tokenizer(str(folder), "model")
    settings = {"text_column": "text", "weights": None, "heldout": 0.1, "split": "train"}
    settings |= dict.fromkeys(("revision", "data_files", "num_proc"))
    check_corpus([str(folder / "texts.txt")], tokenizer, max_length=16, **settings)
    Encoder.from_tokenizer(tokenizer)
    model, _ = load_model(AutoModelForMaskedLM, str(folder), "model")
    check_positions(model, "model", 16)
    load_teacher(str(folder))
    build_student(str(folder), tiny.config("bert"), {}, False, MASKED, False)
    checkpoint = find_checkpoint(str(folder))
    check_checkpoint(checkpoint, 16)
    load_classifier(checkpoint, ["no", "yes"], 0)
    load_source(checkpoint)
    return checkpoint


def sane(content):
    """Sizes as they are: a model of billions of weights is one to this machine too."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return True
    numbers = [each for each in value.values() if type(each) in (int, float)] if isinstance(value, dict) else []
    return all(abs(number) < 10_000 or abs(number) > 10**15 for number in numbers)


@pytest.mark.parametrize("name", FILES)
@fuzzed(15)
@given(data=st.data())
def test_a_checkpoint_with_any_such_file_is_loaded_or_refused(folder, name, data):
    path = folder / name
    whole = path.read_bytes()
    content = data.draw(damaged_json(json.loads(whole)).filter(sane))
    path.write_bytes(content)
    try:
        or_refused("", commands_load, folder)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("tokenizer_config.json", "model_max_length", [512], "model_max_length that isn't a number"),
        ("config.json", "architectures", [{"BertForMaskedLM": 1}], "architectures in its config.json isn't a list"),
    ],
)
def test_values_of_another_type_are_named(folder, name, key, value, message):
    path = folder / name
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | {key: value}))
    try:
        with pytest.raises(UserError, match=message):
            commands_load(folder)
    finally:
        path.write_bytes(whole)
