"""How long a row a model takes."""

from torch import nn
from transformers import PreTrainedModel

from tutorkd.errors import UserError


def longest_row(model: PreTrainedModel) -> int | None:
    """The longest row in tokens; None where positions aren't bounded."""
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from behind the padding index.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def check_positions(model: PreTrainedModel, role: str, max_length: int) -> None:
    """Refuse rows longer than the positions that a model knows.

    Raises:
        UserError: naming both lengths.
    """
    check_length(longest_row(model), role, max_length)


def check_length(positions: int | None, role: str, max_length: int) -> None:
    """The same where the positions are known, as ``longest_row`` tells them."""
    if positions is not None and max_length > positions:
        raise UserError(
            f"rows of {max_length} tokens are longer than the {positions} positions of the {role}; set --max_length "
            f"{positions} or less"
        )
