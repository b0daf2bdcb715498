"""Models of one tokenizer that differ in how many ids they have behind its tokens."""

import copy

import pytest
import tiny
import torch

from tutorkd.functional import mlm_student_reward
from tutorkd.masking import MaskingCollator
from tutorkd.methods import CAUSAL_METHODS, METHODS
from tutorkd.methods.causal_kd import own_text
from tutorkd.objective import CAUSAL, MASKED
from tutorkd.spacing import SpacedCollator
from tutorkd.students import build_student, initialise_from_teacher
from tutorkd.teacher import Teacher
from tutorkd.trainer import build_module

SPARE = 16
# The loss on the text itself is over all ids that the student has, so it is left out.
MASKED_CASES = [
    ("kd", {}),
    ("distilbert", {"mlm_weight": 0.0}),
    ("minilm-v2", {"relation_heads": 4}),
    ("tinybert", {}),
    ("tutor-kd", {"sampling": "greedy"}),
    ("tutor-kd", {"sampling": "greedy", "target": "mlm-logits"}),
]
CAUSAL_CASES = [
    ("kd", {}),
    ("kd", {"divergence": "js"}),
    ("distilbert", {"mlm_weight": 0.0}),
    ("tutor-kd", {"sampling": "greedy"}),
]


def _padded(model):
    """A copy with ids that no token has, of which its head thinks highly."""
    padded = copy.deepcopy(model)
    padded.resize_token_embeddings(model.config.vocab_size + SPARE, mean_resizing=False)
    embeddings = padded.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[-SPARE:] = 5 * torch.randn(embeddings[-SPARE:].shape, generator=torch.Generator().manual_seed(5))
    return padded


def _models(objective):
    model = tiny.tiny_causal() if objective is CAUSAL else tiny.masked_lm()
    student = build_student("half", model.config, head=objective)
    initialise_from_teacher(student, Teacher(model))
    return model, student


def _batch(objective):
    generator, shape = torch.Generator().manual_seed(1), (3, 24)
    if objective is CAUSAL:
        collator = SpacedCollator(tiny.causal_tokenizer(), 0.1, 4, 0, tiny.CAUSAL_VOCABULARY)
        ids = torch.randint(1, tiny.CAUSAL_VOCABULARY, shape, generator=generator)
    else:
        collator = MaskingCollator(tiny.tokenizer(), 0.3, 0, tiny.VOCABULARY)
        ids = torch.randint(5, tiny.VOCABULARY, shape, generator=generator)
    return collator([{"input_ids": row, "draw": draw} for draw, row in enumerate(ids.tolist())])


def _gradient(method, teacher, student, tokenizer, objective, settings):
    torch.manual_seed(0)
    kind = (CAUSAL_METHODS if objective is CAUSAL else METHODS)[method]
    if objective is MASKED and method not in ("kd", "distilbert") and settings.get("target") != "mlm-logits":
        student = student.base_model
    module = build_module(kind, copy.deepcopy(student), Teacher(teacher), kind.settings(**settings), tokenizer).eval()
    module(_batch(objective), Teacher(teacher)).loss.backward()
    return {name: p.grad for name, p in module.student.base_model.named_parameters() if "layer" in name}


@pytest.mark.parametrize("larger", ["teacher", "student"])
@pytest.mark.parametrize(
    ("objective", "method", "settings"),
    [
        *((MASKED, *case) for case in MASKED_CASES),
        *((CAUSAL, *case) for case in CAUSAL_CASES),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_spare_ids_of_one_model_don_t_change_what_the_student_learns(objective, method, settings, larger):
    teacher, student = _models(objective)
    tokenizer = tiny.causal_tokenizer() if objective is CAUSAL else tiny.tokenizer()
    plain = _gradient(method, teacher, student, tokenizer, objective, settings)
    pair = (_padded(teacher), student) if larger == "teacher" else (teacher, _padded(student))
    assert pair[0].config.vocab_size != pair[1].config.vocab_size
    padded = _gradient(method, *pair, tokenizer, objective, settings)
    torch.testing.assert_close(padded, plain)


def test_a_student_never_writes_spare_ids_for_a_teacher_that_lacks_them():
    teacher, student = _models(CAUSAL)
    kind, larger = CAUSAL_METHODS["kd"], _padded(student)
    settings = kind.settings(on_policy_share=1.0)
    module = build_module(kind, larger, Teacher(teacher), settings, tiny.causal_tokenizer())
    batch = _batch(CAUSAL)
    likeliest = larger(batch.input_ids).logits.argmax(-1)
    assert (likeliest >= tiny.CAUSAL_VOCABULARY).any()  # which it would write if it were free to
    assert own_text(module, batch).input_ids.max() < tiny.CAUSAL_VOCABULARY


def test_the_reward_of_the_mlm_target_counts_the_ids_that_both_have():
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.4, 0.1, 0.5]]).log()
    torch.testing.assert_close(mlm_student_reward(teacher, student), torch.tensor([0.3]))
    torch.testing.assert_close(mlm_student_reward(student, teacher), torch.tensor([0.3]))
