"""A student of an embedding model: the teacher's vectors of texts, and how texts are to one another.

References: Robin Vujanic, Thomas Rueckstiess, "LEAF: Knowledge Distillation of Text Embedding Models with
Teacher-Aligned Representations", 2025 (arXiv 2509.12539), whose loss is the squared distance; Nils Reimers, Iryna
Gurevych, "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", EMNLP 2020 (doi
10.18653/v1/2020.emnlp-main.365), which has the student's vectors be the teacher's, too.

Teacher and student read texts, a row each. Of row i, s_i is the student's vector and t_i the teacher's:

    L_cos = mean over rows of 1 - cos(s_i, t_i)
    L_sq  = mean over rows of |s_i - t_i|^2
    L_sim = mean over rows i of the mean over the other rows j of (cos(s_i, s_j) - cos(t_i, t_j))^2

With vectors of length 1 L_sq = 2 L_cos. Beside them L_hid and L_att compare hidden states and attention scores layer by
layer, as Tutor-KD does. The student's body is followed by a copy of what follows the teacher's. Where hidden sizes
differ, a dense layer lies between pooling and the rest, so that the student's vectors are in the teacher's space and
can be searched with among the teacher's. A student with a tokenizer of its own reads the same texts as other rows; a
dense layer takes its pooled states straight to the teacher's vectors. The student may also read another text than the
teacher, such as a translation of it. Over as many rows of translations as of the teacher's own texts, L_sq is half of
Reimers and Gurevych's loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutorkd.batch import Batch
from tutorkd.errors import UserError
from tutorkd.functional import Count, mean_over
from tutorkd.layer_weights import RelationSettings
from tutorkd.methods import internal
from tutorkd.methods.internal import Projection, internal_losses, matched_layers
from tutorkd.methods.pair import check_heads, check_vocabulary, differing
from tutorkd.objective import EMBEDDING, Objective
from tutorkd.probe import IGNORED, VECTOR_COSINE, HeldOut
from tutorkd.reader import Reader
from tutorkd.sentence_teacher import SentenceTeacher
from tutorkd.step import LOSS_AXIS, Figure, StepOutput, Term, weighted_sum

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

CITATION = """\
@misc{vujanic2025leaf,
  title = {{LEAF}: Knowledge Distillation of Text Embedding Models with Teacher-Aligned Representations},
  author = {Vujanic, Robin and Rueckstiess, Thomas},
  year = {2025},
  eprint = {2509.12539},
  archivePrefix = {arXiv}
}

@inproceedings{reimers2020multilingual,
  title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author = {Reimers, Nils and Gurevych, Iryna},
  booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing (EMNLP)},
  year = {2020},
  doi = {10.18653/v1/2020.emnlp-main.365}
}"""

COSINE = Figure("loss_cosine", "L_cos", LOSS_AXIS)
SQUARED = Figure("loss_squared", "L_sq", LOSS_AXIS)
SIMILARITY = Figure("loss_similarity", "L_sim", LOSS_AXIS)
FIGURES = (COSINE, SQUARED, SIMILARITY, *internal.FIGURES)

_ROWS_OF_START = 2048  # whose vectors decide how a dense layer starts
_RIDGE = 0.01  # weight decay of its regression, in mean variances of a dimension


@dataclass
class EmbeddingSettings(RelationSettings):
    """Constants of a student of an embedding model."""

    _argument_group_name = "method: embedding distillation"

    student_head: ClassVar[Objective | None] = None

    text_unit: Literal["sentence", "line", "document"] = field(
        default="line",
        metadata={"help": "What a row is (cut at max_length): a whole document, one of its lines, or one sentence."},
    )
    prompt_name: str | None = field(
        default=None,
        metadata={
            "help": "Which of the teacher's prompts to put before each text, a name; by default the teacher's default."
        },
    )
    teacher_text_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of what the teacher reads, where that isn't what the student reads in text_column: the "
            "original of a translation, say. Each row of the text is then a pair of texts, which stay whole."
        },
    )
    learn_both: bool = field(
        default=True,
        metadata={"help": "Whether the student also reads the texts of teacher_text_column, each as a row of its own."},
    )
    cosine_weight: float = field(default=1.0, metadata={"help": "Weight of L_cos, 1 - cosine to the teacher's vector."})
    squared_weight: float = field(
        default=0.0, metadata={"help": "Weight of L_sq, the squared distance from that vector (LEAF's loss)."}
    )
    similarity_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of L_sim, the loss on how similar the texts of a batch are to one another."},
    )
    hidden_state_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of L_hid, the loss on hidden states; needs a depth up to the teacher's."},
    )
    attention_score_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of L_att, the loss on attention scores; needs such a depth, and as many heads."},
    )

    def __post_init__(self) -> None:
        """Raises UserError for settings that can't go with texts of two columns."""
        if self.teacher_text_column is None:
            return
        refuse_layers(self, "with --teacher_text_column student and teacher read different texts")
        if self.text_unit == "sentence":
            raise UserError(
                "a text and what the teacher reads in its place can't be cut into sentences side by side: with "
                "--teacher_text_column set --text_unit document"
            )

    @property
    def layers_count(self) -> bool:
        """Whether the teacher's layers are asked for, and not its vectors alone."""
        return bool(self.hidden_state_weight or self.attention_score_weight or self.relation_weight)


def refuse_layers(settings: EmbeddingSettings, why: str) -> None:
    """Refuse to compare layers.

    Args:
        why: they can't be, in words.

    Raises:
        UserError: if they are asked for.
    """
    if settings.layers_count:
        raise UserError(
            f"hidden states, attention scores and relations are compared token by token, but {why}: leave out "
            "--hidden_state_weight, --attention_score_weight and --relation_weight"
        )


def cosine_loss(student: Tensor, teacher: Tensor, num_items: Count = None) -> Tensor:
    """L_cos, the mean over rows of 1 - cosine of the two vectors.

    Args:
        student, teacher: (B, D); no gradient flows to the teacher.
        num_items: rows of the whole batch; those at hand by default.

    Returns:
        () float32.
    """
    distance = 1 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)
    return mean_over(distance.sum(), len(student), num_items)


def squared_loss(student: Tensor, teacher: Tensor, num_items: Count = None) -> Tensor:
    """L_sq, the mean over rows of the squared distance between the two vectors; as ``cosine_loss``."""
    return mean_over((student.float() - teacher.detach().float()).square().sum(), len(student), num_items)


def similarity_loss(student: Tensor, teacher: Tensor, num_items: Count = None) -> Tensor:
    """L_sim, the mean over rows of the mean over the other rows at hand of the squared difference of their cosines.

    Rows are compared within a micro-batch. As ``cosine_loss``; of one row it is 0.
    """
    rows = len(student)
    with torch.autocast(student.device.type, enabled=False):
        s, t = (F.normalize(vectors.float(), dim=-1) for vectors in (student, teacher.detach()))
        difference = (s @ s.mT - t @ t.mT).square()
    others = difference.sum() - difference.diagonal().sum()
    return mean_over(others / max(rows - 1, 1), rows, num_items)


def reads_otherwise(teacher: SentenceTeacher, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a student's tokenizer gives ids another meaning than the teacher's does."""
    return differing(tokenizer, teacher.tokenizer, EMBEDDING) is not None


def _vectors(teacher: SentenceTeacher, batch: Batch) -> Tensor:
    """The teacher's vectors of the texts of a batch, (B, D), which isn't run where they are known."""
    return teacher.vectors(*batch.for_teacher) if batch.vectors is None else batch.vectors


class Embedding(nn.Module):
    """The trained module: a student's body and what follows it.

    Args:
        student: an encoder without a head.
        teacher: a ``SentenceTeacher``.
        settings: weights of the losses.
        tokenizer: the student's; by default the teacher's. With another one the two read the same texts as other rows.

    Raises:
        UserError: if vocabularies differ, or the layers that are to be compared can't be.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: SentenceTeacher,
        settings: EmbeddingSettings,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__()
        c = settings
        self.own_tokenizer = tokenizer if tokenizer is not None and reads_otherwise(teacher, tokenizer) else None
        if self.own_tokenizer is None:
            check_vocabulary(student, teacher)
        else:
            refuse_layers(c, "this student has a tokenizer of its own")
        if c.layers_count:
            check_heads(student, teacher, c.attention_score_weight)
        self.student = student
        self.reader = Reader(student)
        self.args = c
        self.head = teacher.head_for(student, apart=self.own_tokenizer is not None)
        self.asked_of_student, self.asked_of_teacher = matched_layers(student, teacher, c)
        self.projection = Projection(student, teacher) if c.hidden_state_weight else None

    def vectors(self, batch: Batch) -> Tensor:
        """The student's vectors, (B, D)."""
        return self.head(self.reader(batch.input_ids, batch.attention_mask).last, batch.mask)

    def forward(self, batch: Batch, teacher: SentenceTeacher) -> StepOutput:
        """One step on X; the teacher isn't run where its vectors are in the batch, and nothing else is asked of it."""
        c, mask, vectors = self.args, batch.mask, batch.vectors
        _, real, pairs, _, rows = batch.counts
        learned = self.reader(batch.input_ids, batch.attention_mask, self.asked_of_student)
        student = self.head(learned.last, mask)
        if c.layers_count:
            taught = teacher(batch.input_ids, batch.attention_mask, self.asked_of_teacher)
            vectors = teacher.sentence_head(taught.last, mask) if vectors is None else vectors
        else:
            vectors = _vectors(teacher, batch)

        losses = (
            (COSINE, c.cosine_weight, cosine_loss),
            (SQUARED, c.squared_weight, squared_loss),
            (SIMILARITY, c.similarity_weight, similarity_loss),
        )
        terms = [Term(figure, weight, loss(student, vectors, rows)) for figure, weight, loss in losses if weight]
        if c.layers_count:
            terms += internal_losses(c, self.projection, learned, taught, mask, real, pairs)
        return weighted_sum(terms)


def write(module: Embedding, student: PreTrainedModel, teacher: SentenceTeacher, folder: Path) -> None:
    """Write the student as a folder of sentence-transformers."""
    teacher.save(student, module.head, folder, module.own_tokenizer)


@torch.no_grad()
def start(module: Embedding, teacher: SentenceTeacher, batches: Iterable[Batch]) -> None:
    """Have a dense layer behind the student's pooling start where it brings the student's states nearest to the
    teacher's, or to the teacher's vectors where the student has a tokenizer of its own, by ridge regression. Where
    there is no such layer, or one that was trained before, no batch is read.

    Args:
        batches: of texts, on the device of the teacher; the first 2,048 rows or so are read.
    """
    if not module.head.new:
        return
    own: list[Tensor] = []
    goal: list[Tensor] = []
    training = module.training
    module.eval()
    for batch in batches:
        own += module.head.pooled(module.reader(batch.input_ids, batch.attention_mask).last, batch.mask).float()
        if module.own_tokenizer is None:
            goal += teacher.pooled(*batch.for_teacher).float()
        else:
            goal += _vectors(teacher, batch).float()
        if len(own) >= _ROWS_OF_START:
            break
    module.train(training)
    linear: Any = module.head.parts[1].linear
    weight, bias = ridge_regression(torch.stack(own), torch.stack(goal))
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)


def ridge_regression(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map for which the squared distance of ``W given + b`` from ``wanted``, and a small weight decay on W,
    are least (Hoerl and Kennard, "Ridge Regression", 1970).

    Args:
        given: (n, d).
        wanted: (n, D).

    Returns:
        W (D, d) and b (D,), float64 on the processor.
    """
    given, wanted = given.cpu().double(), wanted.cpu().double()  # not every accelerator has this precision
    x, y = given - given.mean(0), wanted - wanted.mean(0)
    covariance = x.mT @ x
    decay = _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    weight = (torch.linalg.pinv(covariance + decay, hermitian=True) @ (x.mT @ y)).mT  # 0 where all rows are alike
    return weight, wanted.mean(0) - weight @ given.mean(0)


@torch.no_grad()
def _look(module: Embedding, batch: Batch, teacher: SentenceTeacher, generator: torch.Generator) -> tuple[Tensor, ...]:
    taught = _vectors(teacher, batch)
    return (F.cosine_similarity(module.vectors(batch).float(), taught.float(), dim=-1),)


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    """The mean cosine between student's and teacher's vectors, of ``predictions`` (rows, L): one of each row."""
    cosines = np.asarray(prediction.predictions)
    return {"cosine": float(cosines[cosines != IGNORED].mean())}


HELD_OUT = HeldOut(_look, _metrics, (VECTOR_COSINE,))
