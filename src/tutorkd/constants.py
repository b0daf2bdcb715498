"""Which constants of a method count: those of which another value would have made another run."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

# As if set, in methods that have no such constant.
_FIXED = {"target": "modified-logit", "relation_weight": 1, "soft_cross_entropy_weight": 1, "divergence_weight": 1}


def _learns(c: Any) -> bool:
    return c.tutor == "learned"


def _learns_from_rewards(c: Any) -> bool:
    return _learns(c) and c.policy_weight != 0 and c.rewards != "none"


def _places(c: Any) -> bool:
    return c.tutor != "none" or c.modified_logit_weight != 0


# The constants that count with some values of the others alone; all not named here always do.
_WHERE: Mapping[str, Callable[[Any], bool]] = {
    "plausibility_weight": _learns,
    "tutor_max_grad_norm": _learns,
    "tutor_init": _learns,
    "policy_weight": lambda c: _learns(c) and c.rewards != "none",
    "rewards": lambda c: _learns(c) and c.policy_weight != 0,
    "reward_baseline": _learns_from_rewards,
    "sampling": lambda c: c.tutor in ("learned", "teacher"),
    "top_k": lambda c: c.tutor in ("learned", "teacher") and c.sampling == "top-k",
    "window": _places,
    "replaced_share": _places,
    "modified_logit_weight": lambda c: c.target == "modified-logit",
    "mlm_logit_weight": lambda c: c.target == "mlm-logits",
    "relation_heads": lambda c: c.relation_weight != 0,
    "divergence": lambda c: c.divergence_weight != 0,
    "skew": lambda c: c.divergence_weight != 0 and c.divergence == "skew-kl",
    "temperature": lambda c: c.soft_cross_entropy_weight != 0,
    "text_unit": lambda c: c.teacher_text_column is None,
    "learn_both": lambda c: c.teacher_text_column is not None,
}


def counts(name: str, settings: Any) -> bool:
    """Whether another value of a constant would have made another run, whatever the models and the text.

    Args:
        name: of the constant.
        settings: an instance of the method's dataclass.
    """
    return name not in _WHERE or _WHERE[name](SimpleNamespace(**(_FIXED | vars(settings))))
