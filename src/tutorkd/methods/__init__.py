"""Methods of distillation, one file each; all that the trainer knows of one is in ``METHODS``, of causal models
in ``CAUSAL_METHODS``, of embedding models in ``EMBEDDING_METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from tutorkd.batch import Batch
from tutorkd.errors import UserError, nearest
from tutorkd.gradients import GradientPart
from tutorkd.methods import (
    causal_distilbert,
    causal_kd,
    causal_lm,
    causal_tutor_kd,
    distilbert,
    embedding,
    internal,
    kd,
    masked_lm,
    minilm,
    minilm_v2,
    next_token,
    tinybert,
    tutor,
    tutor_kd,
)
from tutorkd.objective import EMBEDDING, Objective
from tutorkd.probe import HeldOut
from tutorkd.step import Figure

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Method(NamedTuple):
    """A method as the trainer sees it, for masked, causal or embedding models."""

    title: str
    citation: str  # BibTeX
    settings: type  # dataclass of the method's constants; its student_head: what the student needs a head for
    module: Callable[..., nn.Module]  # of student, teacher, settings and tokenizer: what is trained
    figures: tuple[Figure, ...]  # what the module gives beside its loss
    gradient_parts: Callable[[Any], list[GradientPart]] = lambda module: []  # clipped apart from the student's gradient
    held_out: Callable[[Any], HeldOut | None] = lambda settings: None  # of the settings; None: held-out rows' loss
    teacher_head: bool = True  # whether the teacher is asked for logits, for which it needs a trained head
    # Of module and batch, before a step: the batch that is learned from; by default the text.
    own_text: Callable[[Any, Batch], Batch] = lambda module, batch: batch
    share_written: Callable[[Any], float] = lambda settings: 0.0  # of the settings: of rows, how many that replaces
    # Of the settings, for causal models: how many of the teacher's likeliest tokens rows have beside them.
    likeliest: Callable[[Any], int] = lambda settings: 0
    # Of the settings, for causal models: the share of the tokens that a tutor replaces, and how many lie between two.
    spacing: Callable[[Any], tuple[float, int]] = lambda settings: (0.0, 0)
    # Of module, teacher and batches of the text, which needn't be read: before the first step.
    start: Callable[[Any, Any, Iterable[Batch]], None] = lambda module, teacher, batches: None
    # Of module, student, teacher and folder: writes the student, by default a model of transformers.
    write: Callable[[Any, PreTrainedModel, Any, Path], None] = lambda module, student, teacher, folder: (
        student.save_pretrained(folder)
    )


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
        tutor.gradient_parts,
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
        "TinyBERT",
        tinybert.CITATION,
        tinybert.TinyBERTSettings,
        _of_pair(tinybert.TinyBERT),
        internal.FIGURES,
        teacher_head=False,
    ),
    "minilm": Method(
        "MiniLM",
        minilm.CITATION,
        minilm.MiniLMSettings,
        _of_pair(minilm.MiniLM),
        minilm.FIGURES,
        teacher_head=False,
    ),
    "minilm-v2": Method(
        "MiniLM v2",
        minilm_v2.CITATION,
        minilm_v2.MiniLMv2Settings,
        _of_pair(minilm_v2.MiniLMv2),
        minilm_v2.FIGURES,
        teacher_head=False,
    ),
    "mlm": Method(
        "masked-language modelling",
        masked_lm.CITATION,
        masked_lm.MaskedLMSettings,
        lambda student, teacher, settings, tokenizer: masked_lm.MaskedLM(student),
        masked_lm.FIGURES,
        teacher_head=False,
    ),
}


def _judged(settings: Any) -> HeldOut:
    return next_token.HELD_OUT


CAUSAL_METHODS: dict[str, Method] = {
    "tutor-kd": Method(
        "Tutor-KD",
        tutor_kd.CITATION,
        causal_tutor_kd.CausalTutorKDSettings,
        causal_tutor_kd.build,
        causal_tutor_kd.FIGURES,
        tutor.gradient_parts,
        held_out=_judged,
        spacing=lambda settings: (settings.replaced_share, settings.window),
    ),
    "kd": Method(
        "KD",
        causal_kd.CITATION,
        causal_kd.CausalKDSettings,
        _of_pair(causal_kd.CausalKD),
        causal_kd.FIGURES,
        held_out=_judged,
        own_text=causal_kd.own_text,
        share_written=lambda settings: settings.on_policy_share,
        likeliest=lambda settings: settings.teacher_top_k,
    ),
    "distilbert": Method(
        "DistilBERT",
        distilbert.CITATION,
        causal_distilbert.CausalDistilBERTSettings,
        _of_pair(causal_distilbert.CausalDistilBERT),
        causal_distilbert.FIGURES,
        held_out=_judged,
    ),
    "clm": Method(
        "causal language modelling",
        causal_lm.CITATION,
        causal_lm.CausalLMSettings,
        lambda student, teacher, settings, tokenizer: causal_lm.CausalLM(student),
        causal_lm.FIGURES,
        held_out=_judged,
    ),
}


EMBEDDING_METHODS: dict[str, Method] = {
    "embedding": Method(
        "embedding distillation",
        embedding.CITATION,
        embedding.EmbeddingSettings,
        embedding.Embedding,
        embedding.FIGURES,
        held_out=lambda settings: embedding.HELD_OUT,
        teacher_head=False,
        start=embedding.start,
        write=embedding.write,
    ),
}


# All by name; of those that there are for several kinds of models, the masked models'.
ALL_METHODS = EMBEDDING_METHODS | CAUSAL_METHODS | METHODS

AUTO = "auto"
_RECOMMENDED = {"masked": "minilm-v2", "causal": "kd", "embedding": "embedding"}  # see docs/which-method.md


def methods_for(objective: Objective) -> dict[str, Method]:
    """The methods by name that train models of an objective."""
    return {"causal": CAUSAL_METHODS, "embedding": EMBEDDING_METHODS}.get(objective.name, METHODS)


def objective_of_method(name: str) -> Objective | None:
    """The objective that a method's name tells; None where it is the teacher that tells."""
    return EMBEDDING if name in EMBEDDING_METHODS else None


def named_method(name: str, objective: Objective) -> str:
    """The same name; in place of ``AUTO`` the method that is recommended for models of this objective."""
    return _RECOMMENDED[objective.name] if name == AUTO else name


def choose_method(name: str, objective: Objective) -> Method:
    """A method by name, or by ``AUTO`` the recommended one.

    Raises:
        UserError: if there is no such method for models of this objective.
    """
    methods, name = methods_for(objective), named_method(name, objective)
    if name not in methods:
        choose = f"choose one of {', '.join(methods)}"
        if name in ALL_METHODS:
            raise UserError(f"the method {name} isn't for {objective.noun}s; {choose}")
        raise UserError(f"there is no method {name!r}{nearest(name, list(methods), then=choose)}")
    return methods[name]
