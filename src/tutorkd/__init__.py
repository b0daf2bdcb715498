"""Distils encoders, decoders and embedding models into small ones, with Tutor-KD and other methods."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tutorkd.config import DistillationConfig, TutorKDConfig
    from tutorkd.data import prepare_corpus
    from tutorkd.students import build_student, initialise_from_teacher
    from tutorkd.teacher import Teacher, load_teacher
    from tutorkd.trainer import DistillationTrainer, TutorKDTrainer
    from tutorkd.vocabulary.in_python import trim_vocabulary

# Loaded when asked for, so that `tutorkd --help` doesn't wait for torch.
_HOMES = {
    "DistillationConfig": "config",
    "DistillationTrainer": "trainer",
    "TutorKDConfig": "config",
    "TutorKDTrainer": "trainer",
    "Teacher": "teacher",
    "build_student": "students",
    "initialise_from_teacher": "students",
    "load_teacher": "teacher",
    "prepare_corpus": "data",
    "trim_vocabulary": "vocabulary.in_python",
}
__all__ = [
    "DistillationConfig",
    "DistillationTrainer",
    "Teacher",
    "TutorKDConfig",
    "TutorKDTrainer",
    "build_student",
    "initialise_from_teacher",
    "load_teacher",
    "prepare_corpus",
    "trim_vocabulary",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"tutorkd.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tutorkd' has no attribute {name!r}")
