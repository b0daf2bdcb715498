"""Masked or causal: what a checkpoint's configuration says."""

import pytest
import tiny
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertLMHeadModel,
    PretrainedConfig,
    ViTConfig,
)

from tutorkd.errors import UserError
from tutorkd.kinds import kind_of_checkpoint, kind_of_config


@pytest.mark.parametrize("family", tiny.CAUSAL_FAMILIES)
def test_a_causal_family_is_causal_with_its_head_without_it_and_under_another(family, tmp_path):
    config = tiny.causal_config(family)
    for number, model in enumerate(
        [
            tiny.tiny_causal(family),
            AutoModel.from_config(config),
            AutoModelForSequenceClassification.from_config(config),
        ]
    ):
        model.save_pretrained(tmp_path / str(number))
        assert kind_of_checkpoint(str(tmp_path / str(number))) == "causal"


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "modernbert", "distilbert"])
def test_an_encoder_is_masked_with_its_head_without_it_and_under_another(family, tmp_path):
    config = tiny.config(family)
    for number, model in enumerate(
        [tiny.masked_lm(family), AutoModel.from_config(config), AutoModelForSequenceClassification.from_config(config)]
    ):
        model.save_pretrained(tmp_path / str(number))
        assert kind_of_checkpoint(str(tmp_path / str(number))) == "masked"


def test_an_encoder_s_family_set_up_as_a_decoder_is_causal():
    config = BertConfig(is_decoder=True)
    assert kind_of_config(config) == "causal"
    assert kind_of_config(BertConfig(architectures=[BertLMHeadModel.__name__])) == "causal"


def test_a_model_of_something_else_is_neither():
    assert kind_of_config(ViTConfig()) is None


def test_a_model_with_code_of_its_own_says_what_it_is():
    for name, kind in (("AutoModelForCausalLM", "causal"), ("AutoModelForMaskedLM", "masked"), ("AutoModel", None)):
        assert kind_of_config(PretrainedConfig(auto_map={name: "own.Model"}, architectures=["Own"])) == kind


def test_only_the_configuration_is_read(tmp_path):
    tiny.causal_config("llama").save_pretrained(tmp_path)
    assert kind_of_checkpoint(str(tmp_path)) == "causal"
    with pytest.raises(UserError, match="there is no such folder"):
        kind_of_checkpoint(str(tmp_path / "none"))
