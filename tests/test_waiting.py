"""A training step hands its work to a GPU without waiting for any of it, seen on a device that has no numbers to read.

Tensors on torch's device "meta" have a shape and nothing in them: reading a number fails there, as does computing with
tensors of two devices.
"""

from contextlib import nullcontext

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutorkd.batch import Batch
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.evaluation.soft_targets import task_loss
from tutorkd.functional import mean_over
from tutorkd.masking import MaskingCollator
from tutorkd.methods import CAUSAL_METHODS, METHODS
from tutorkd.methods.embedding import Embedding, EmbeddingSettings
from tutorkd.padding import TextCollator
from tutorkd.sentence_teacher import load_sentence_teacher
from tutorkd.spacing import SpacedCollator
from tutorkd.students import build_student
from tutorkd.teacher import Teacher
from tutorkd.trainer import build_module

LAYERS = {"hidden_state_weight": 1.0, "attention_score_weight": 1.0}
CAUSAL_SETTINGS = {"tutor-kd": {"window": 4, "modified_logit_weight": 1.0, **LAYERS}}
either = pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # which "meta" doesn't have


def _rows(count: int, padded: bool) -> list[dict]:
    rows = tiny.rows(3, 16) + (tiny.rows(1, 9, seed=1) if padded else tiny.rows(1, 16, seed=1))
    return [{**row, "draw": draw} for draw, row in enumerate(rows[-count:])]


def _step(module, teacher, batch: Batch) -> None:
    moved = [each.to("meta") if isinstance(each, torch.Tensor) else each for each in batch]
    loss = module.to("meta").train()(Batch(*moved), teacher.to("meta")).loss
    assert loss.device.type == "meta"
    loss.backward()


@either
@pytest.mark.parametrize(
    ("method", "family"), [*((method, "bert") for method in METHODS), ("tutor-kd", "modernbert"), ("kd", "roberta")]
)
def test_a_step_of_a_masked_language_model_reads_nothing(method, family, padded):
    teacher, settings = Teacher(tiny.masked_lm(family)), METHODS[method].settings()
    student = build_student("half", teacher.config, head=settings.student_head)
    collator = MaskingCollator(tiny.tokenizer(), 0.3, 0, tiny.VOCABULARY)
    module = build_module(METHODS[method], student, teacher, settings, tiny.tokenizer())
    _step(module, teacher, collator(_rows(4, padded)))


@either
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("method", CAUSAL_METHODS)
def test_a_step_of_a_causal_model_reads_nothing(method, family, padded):
    teacher = Teacher(tiny.tiny_causal(family))
    settings = CAUSAL_METHODS[method].settings(**CAUSAL_SETTINGS.get(method, {}))
    student = build_student("half", teacher.config, head=settings.student_head)
    module = build_module(CAUSAL_METHODS[method], student, teacher, settings, tiny.causal_tokenizer())
    _step(module, teacher, SpacedCollator(tiny.causal_tokenizer(), 0.1, 4, 0, tiny.VOCABULARY)(_rows(4, padded)))


@either
@pytest.mark.parametrize("layers", [{}, LAYERS], ids=["vectors", "layers"])
def test_a_step_of_an_embedding_model_reads_nothing(tmp_path, layers, padded):
    teacher = load_sentence_teacher(str(tiny.sentence_encoder(tmp_path)))
    settings = EmbeddingSettings(squared_weight=1.0, similarity_weight=1.0, **layers)
    module = Embedding(build_student("half", teacher.config), teacher, settings)
    _step(module, teacher, TextCollator(tiny.tokenizer(), tiny.VOCABULARY)(_rows(4, padded)))


class Calls(TorchDispatchMode):
    """What torch computes, and of what."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.called.append((function.overloadpacket, args))
        return function(*args, **(kwargs or {}))


def test_a_mean_over_a_number_of_rows_makes_no_tensor_of_it():
    total = torch.empty((), device="meta")
    with Calls() as calls:
        mean_over(total, 4, None)
    assert [name for name, _ in calls.called] == [torch.ops.aten.div]  # a tensor would be copied to the device


def test_words_that_have_a_label_are_looked_for_once():
    labels = torch.tensor([[-100, 1, 0, -100], [2, -100, -100, -100]])
    soft = SoftTargetArguments(soft_target_weight=0.5)
    with Calls() as calls:
        task_loss("token_classification", torch.zeros(2, 4, 3), labels, torch.ones(2), torch.zeros(3, 3), soft)
    assert [name for name, _ in calls.called].count(torch.ops.aten.nonzero) == 1
    indices = [index for name, args in calls.called if name is torch.ops.aten.index for index in args[1]]
    assert {index.dtype for index in indices} == {torch.int64}  # a mask would be searched again
