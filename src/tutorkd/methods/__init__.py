"""Methods of distillation, one file each; all that the trainer knows of one is in ``METHODS``."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from tutorkd.gradients import GradientPart
from tutorkd.methods import distilbert, kd, masked_lm, minilm, minilm_v2, tinybert, tutor_kd
from tutorkd.probe import HeldOut
from tutorkd.step import Figure


class Method(NamedTuple):
    """A method as the trainer sees it."""

    title: str
    citation: str  # BibTeX
    settings: type  # dataclass of the method's constants; its needs_mlm_head: the student isn't a bare encoder
    module: Callable[..., nn.Module]  # of student, teacher, settings and tokenizer: what is trained
    figures: tuple[Figure, ...]  # what the module gives beside its loss
    gradient_parts: Callable[[Any], list[GradientPart]] = lambda module: []  # clipped apart from the student's gradient
    held_out: Callable[[Any], HeldOut | None] = lambda settings: None  # of the settings; None: held-out rows' loss


def _of_pair(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """For a module that doesn't ask which tokens are text."""
    return lambda student, teacher, settings, tokenizer: kind(student, teacher, settings)


METHODS: dict[str, Method] = {
    "tutor-kd": Method(
        "Tutor-KD",
        tutor_kd.CITATION,
        tutor_kd.TutorKDSettings,
        tutor_kd.build,
        tutor_kd.FIGURES,
        tutor_kd.gradient_parts,
        tutor_kd.held_out,
    ),
    "kd": Method("KD", kd.CITATION, kd.KDSettings, _of_pair(kd.KD), kd.FIGURES),
    "distilbert": Method(
        "DistilBERT",
        distilbert.CITATION,
        distilbert.DistilBERTSettings,
        _of_pair(distilbert.DistilBERT),
        distilbert.FIGURES,
    ),
    "tinybert": Method(
        "TinyBERT", tinybert.CITATION, tinybert.TinyBERTSettings, _of_pair(tinybert.TinyBERT), tinybert.FIGURES
    ),
    "minilm": Method("MiniLM", minilm.CITATION, minilm.MiniLMSettings, _of_pair(minilm.MiniLM), minilm.FIGURES),
    "minilm-v2": Method(
        "MiniLM v2", minilm_v2.CITATION, minilm_v2.MiniLMv2Settings, _of_pair(minilm_v2.MiniLMv2), minilm_v2.FIGURES
    ),
    "mlm": Method(
        "masked-language modelling",
        masked_lm.CITATION,
        masked_lm.MaskedLMSettings,
        lambda student, teacher, settings, tokenizer: masked_lm.MaskedLM(student),
        masked_lm.FIGURES,
    ),
}
