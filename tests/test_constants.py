"""Which constants count: those of which another value gives another step, bit for bit, in every method."""

import copy
import dataclasses
from typing import Any, get_args, get_type_hints

import pytest
import tiny
import torch

from tutorkd.constants import counts
from tutorkd.gradients import clip
from tutorkd.masking import MaskingCollator
from tutorkd.methods import CAUSAL_METHODS, EMBEDDING_METHODS, METHODS, Method
from tutorkd.padding import TextCollator
from tutorkd.sentence_teacher import load_sentence_teacher
from tutorkd.spacing import SpacedCollator
from tutorkd.students import build_student
from tutorkd.teacher import Teacher
from tutorkd.trainer import build_module

# Where the constants below differ from the defaults: what a tutor learns isn't cut to one length, and relation
# heads divide the tiny models' sizes.
START = {"tutor_init": "random", "tutor_max_grad_norm": 0.0, "relation_heads": 8, "top_k": 10}
# Each of the combinations that a constant may depend on.
COMBINATIONS: dict[str, list[dict[str, Any]]] = {
    "tutor-kd": [
        {},
        *({"tutor": tutor, "sampling": "top-k"} for tutor in ("teacher", "uniform", "none")),
        {"tutor": "teacher"},
        {"sampling": "top-k"},
        {"target": "mlm-logits"},
        {"rewards": "none"},
        {"rewards": "none", "reward_baseline": "mean"},
        {"policy_weight": 0.0},
        {"relation_weight": 1.0},
    ],
    "causal tutor-kd": [
        {},
        {"tutor": "none"},
        {"tutor": "none", "modified_logit_weight": 1.0},
        {"tutor": "uniform", "divergence_weight": 0.0, "modified_logit_weight": 1.0},
        {"rewards": "teacher", "divergence_weight": 0.0, "modified_logit_weight": 1.0},
        {"divergence_weight": 0.0, "modified_logit_weight": 1.0},
        {"divergence": "reverse-kl"},
        {"relation_weight": 1.0, "hidden_state_weight": 1.0},
    ],
    "distilbert": [{}, {"soft_cross_entropy_weight": 0.0}, {"cosine_weight": 0.0}],
    "causal distilbert": [{}, {"soft_cross_entropy_weight": 0.0}],
    "causal kd": [{}, {"divergence": "js"}, {"on_policy_share": 1.0}],
    "embedding": [{}, {"relation_weight": 1.0}],
}
OF_TEXT = {
    "text_unit",
    "prompt_name",
    "teacher_text_column",
    "learn_both",
    "teacher_top_k",
}  # which make the rows that a step reads


METHODS_BY_NAME: dict[str, Method] = {
    **METHODS,
    **{f"causal {name}": method for name, method in CAUSAL_METHODS.items()},
    **EMBEDDING_METHODS,
}


class Steps:
    """One training step of a method for any settings, from the same models on the same rows."""

    def __init__(self, name: str, tmp_path):
        self.method, self.causal = METHODS_BY_NAME[name], name.startswith("causal ")
        self.tokenizer = tiny.causal_tokenizer() if self.causal else tiny.tokenizer()
        if name in EMBEDDING_METHODS:
            self.teacher: Teacher = load_sentence_teacher(str(tiny.sentence_encoder(tmp_path)))
        else:
            self.teacher = Teacher(tiny.tiny_causal() if self.causal else tiny.masked_lm())
        self.known: dict[str, dict[str, torch.Tensor]] = {}

    def after(self, settings: Any) -> dict[str, torch.Tensor]:
        """What is trained, once it has learned from a batch."""
        key = repr(settings)
        if key not in self.known:
            self.known[key] = self._after(settings)
        return self.known[key]

    def _after(self, settings: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        student = build_student("half", self.teacher.config, head=settings.student_head)
        module = build_module(self.method, student, self.teacher, copy.copy(settings), self.tokenizer).train()
        batch = self._batch(settings)
        self.method.start(module, self.teacher, [batch])
        torch.manual_seed(1)
        module(self.method.own_text(module, batch), teacher=self.teacher).loss.backward()
        for part in self.method.gradient_parts(module):
            clip(part.parameters, part.max_norm)
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        return dict(module.state_dict())

    def _batch(self, settings: Any):
        seed, vocabulary = 0, self.teacher.config.vocab_size
        if self.causal:
            generator = torch.Generator().manual_seed(1)
            rows = torch.randint(1, vocabulary, (3, 60), generator=generator).tolist()
            collator: Any = SpacedCollator(self.tokenizer, *self.method.spacing(settings), seed, vocabulary)
            return collator([{"input_ids": row, "draw": draw} for draw, row in enumerate(rows)])
        rows = [{**row, "draw": draw} for draw, row in enumerate(tiny.rows(4, 24))]
        if self.method in EMBEDDING_METHODS.values():
            return TextCollator(self.tokenizer, vocabulary)(rows)
        return MaskingCollator(self.tokenizer, 0.2, seed, vocabulary)(rows)


OTHERS = {"relation_heads": 4, "teacher_layer": 2, "replaced_share": 0.1, "window": 3, "on_policy_share": 0.5}


def _another(name: str, value: Any, kind: Any) -> Any:
    """A value beside that one, which is in the constant's range."""
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, str):
        return next(word for word in get_args(kind) if word != value)
    return value - 1 if isinstance(value, int) else value / 2 + 0.02


@pytest.mark.parametrize("name", METHODS_BY_NAME)
def test_a_constant_counts_where_another_value_of_it_makes_another_step(name, tmp_path):
    steps = Steps(name, tmp_path)
    kinds = get_type_hints(steps.method.settings)
    constants = [each.name for each in dataclasses.fields(steps.method.settings) if each.name not in OF_TEXT]
    for combination in COMBINATIONS.get(name, [{}]):
        start = {key: value for key, value in START.items() if key in constants}
        settings = steps.method.settings(**(start | combination))
        before = steps.after(settings)
        for constant in constants:
            other = _another(constant, getattr(settings, constant), kinds[constant])
            after = steps.after(dataclasses.replace(settings, **{constant: other}))
            same = before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
            assert counts(constant, settings) is not same, (constant, combination)
