"""Hidden states and attention scores of a classifier's layers as targets beside its answers.

TinyBERT's task stage (Jiao et al. 2020, section 3.2) matches layers first and answers then; here both are one loss.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from tutorkd.capture import Recording
from tutorkd.errors import UserError
from tutorkd.evaluation.classifier import Classifier
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.methods.internal import Projection, internal_losses, matched_layers
from tutorkd.methods.pair import check_heads
from tutorkd.reader import Ask, Reading
from tutorkd.step import weighted_sum
from tutorkd.teacher import Teacher


class MatchedLayers(nn.Module):
    """What a student's layers lose to a teacher's that match them, over the positions that are no padding.

    The projection of hidden states is trained with the student.

    Args:
        student: the classifier that is trained; its attention is made readable.
        tokenizer: the student's.
        soft: the weights of the two losses.

    Raises:
        UserError: if teacher and student read other tokens, their layers or heads can't be compared, or the family's
            attention can't be read.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        classifier: Classifier,
        soft: SoftTargetArguments,
    ):
        super().__init__()
        if classifier.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"{classifier.name} and the student have different tokenizers, so their layers can't be compared: "
                "leave out hidden_state_weight, attention_score_weight and relation_weight"
            )
        teacher = Teacher(classifier.model)
        check_heads(student, teacher, soft.attention_score_weight)
        self._asked = matched_layers(student, teacher, soft)
        self._soft = soft
        self.teacher = teacher.model
        self.projection = Projection(student, teacher)

    def read(self, student: nn.Module, inputs: dict[str, Any]) -> tuple[SequenceClassifierOutput, Tensor]:
        """The student's answers to a batch, and the weighted loss of its layers, () float32."""
        outputs, learned = _read(student, inputs, self._asked[0])
        with torch.no_grad():
            _, taught = _read(self.teacher, inputs, self._asked[1])
        mask = inputs["attention_mask"]
        return outputs, weighted_sum(internal_losses(self._soft, self.projection, learned, taught, mask)).loss


def _read(model: nn.Module, inputs: dict[str, Any], ask: Ask) -> tuple[SequenceClassifierOutput, Reading]:
    recording = Recording(ask.attention, ask.values)
    recorded = {"recording": recording} if ask.attention else {}
    outputs = model(**inputs, output_hidden_states=bool(ask.hidden), **recorded)
    recording.close()
    hidden = tuple(outputs.hidden_states[layer] for layer in ask.hidden)
    unasked = cast(Tensor, None)
    return outputs, Reading(hidden, tuple(recording.kept), unasked, outputs.logits, unasked)
