"""Masked or causal: what a checkpoint's configuration says."""

import pytest
import tiny
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    BertLMHeadModel,
    Gemma3Config,
    MambaConfig,
    PretrainedConfig,
    ViTConfig,
)

from tutorkd.errors import UserError
from tutorkd.kinds import kind_of_checkpoint, kind_of_config
from tutorkd.pretraining.adapt_arguments import read_adaptation
from tutorkd.pretraining.adaptation import adapt
from tutorkd.students import build_student
from tutorkd.teacher import load_teacher


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


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Gemma3Config(), r"is several models in one \(gemma3: text_config, vision_config\): name .* reads text alone"),
        (BartConfig(), r"is an encoder-decoder \(bart\), which can't be trained here: name an encoder or a causal"),
        (MambaConfig(), "is a mamba, which has no num_attention_heads: name .* with attention"),
    ],
    ids=["images too", "encoder-decoder", "no attention"],
)
def test_what_isn_t_one_stack_of_attention_layers_is_refused_by_its_configuration(tmp_path, config, said):
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"the teacher {tmp_path} {said}"):
        load_teacher(str(tmp_path))
    for pretrained in (False, True):
        with pytest.raises(UserError, match=f"the student {tmp_path} {said}"):
            build_student(str(tmp_path), BertConfig(), pretrained=pretrained)
    if config.model_type == "mamba":  # which is only no teacher: what reads no attention can be adapted
        return
    options = read_adaptation(["--model", str(tmp_path), "--corpus", "text.txt", "--output_dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match=f"the model {tmp_path} {said}"):
        adapt(options)
