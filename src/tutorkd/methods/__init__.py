"""Methods of distillation, one file each; what a trainer must know of each is in ``METHODS``."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from tutorkd.methods import distilbert, kd, masked_lm, minilm, minilm_v2, tinybert, tutor_kd


class Method(NamedTuple):
    """A method as the trainer sees it."""

    title: str
    citation: str  # BibTeX
    settings: type  # dataclass of the method's constants; its needs_mlm_head: the student isn't a bare encoder
    module: Callable[..., nn.Module]  # of student, teacher and settings: what is trained


METHODS: dict[str, Method] = {
    "tutor-kd": Method("Tutor-KD", tutor_kd.CITATION, tutor_kd.TutorKDSettings, tutor_kd.TutorKD),
    "kd": Method("KD", kd.CITATION, kd.KDSettings, kd.KD),
    "distilbert": Method("DistilBERT", distilbert.CITATION, distilbert.DistilBERTSettings, distilbert.DistilBERT),
    "tinybert": Method("TinyBERT", tinybert.CITATION, tinybert.TinyBERTSettings, tinybert.TinyBERT),
    "minilm": Method("MiniLM", minilm.CITATION, minilm.MiniLMSettings, minilm.MiniLM),
    "minilm-v2": Method("MiniLM v2", minilm_v2.CITATION, minilm_v2.MiniLMv2Settings, minilm_v2.MiniLMv2),
    "mlm": Method(
        "masked-language modelling",
        masked_lm.CITATION,
        masked_lm.MaskedLMSettings,
        lambda student, teacher, settings: masked_lm.MaskedLM(student),
    ),
}
