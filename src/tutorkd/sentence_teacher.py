"""The frozen teacher of embedding models, and what stands behind the body of one: pooling and all that follows."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.hub import looks_like_path
from tutorkd.objective import EMBEDDING
from tutorkd.sentence_encoder import is_sentence_encoder, load_sentence_encoder
from tutorkd.teacher import Teacher, frozen

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

_PROBES = ["a", "a text of more words than the other, so that one of the two is padded"]


class SentenceHead(nn.Module):
    """From hidden states to the vector of each row, by modules of sentence-transformers.

    Attributes:
        parts: pooling first, then dense layers, normalisation and what else an embedding model may have.
        new: whether the second is a dense layer at random.
    """

    def __init__(self, parts: Iterable[nn.Module], new: bool = False):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.new = new

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The vectors, (B, L, d) and (B, L) -> (B, D), in the number format of the weights; without any, in float32."""
        return self._through(self.parts, hidden, mask)

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What the pooling gives to the other parts, (B, L, d) and (B, L) -> (B, d)."""
        return self._through(self.parts[:1], hidden, mask)

    def _through(self, parts: Iterable[nn.Module], hidden: Tensor, mask: Tensor) -> Tensor:
        dtype = next((weight.dtype for weight in self.parameters()), torch.float32)
        features: dict[str, Any] = {"token_embeddings": hidden.to(dtype), "attention_mask": mask}
        with torch.autocast(hidden.device.type, enabled=False):
            for part in parts:
                features = part(features)
        return features["sentence_embedding"]


class SentenceTeacher(Teacher):
    """A frozen embedding model.

    Args:
        encoder: a model of sentence-transformers: a body of transformers, a pooling of its last hidden states, and what
            follows. It stays as it is, as a ``Teacher``'s model does.
        dtype: number format of the weights; the encoder's by default.

    Attributes:
        tokenizer: the encoder's, which knows the longest text that it reads.
        vector_size: D, numbers of a vector.

    Raises:
        UserError: if the encoder makes its vectors in another way.
    """

    _encoder: Any

    def __init__(self, encoder: SentenceTransformer, dtype: torch.dtype | None = None):
        from transformers import PreTrainedModel  # takes a second, which whoever asks for help alone shouldn't wait for

        body = encoder[0].model if hasattr(encoder[0], "model") else None
        if not isinstance(body, PreTrainedModel):
            raise _unlike(encoder, "it has no transformers body")
        super().__init__(body, dtype)
        self.objective = EMBEDDING
        self.sentence_head = frozen(SentenceHead(list(encoder.children())[1:]), dtype)
        # Not parts of the module: the body is in there already, and neither is moved to another device.
        self.__dict__["_encoder"] = encoder
        self.tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
        self._check()

    @torch.no_grad()
    def vectors(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The rows' vectors, (B, L) -> (B, D)."""
        return self.sentence_head(*self._states(input_ids, attention_mask))

    @torch.no_grad()
    def pooled(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What the pooling gives of the rows, (B, L) -> (B, d)."""
        return self.sentence_head.pooled(*self._states(input_ids, attention_mask))

    def _states(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last hidden states, (B, L, d), and a mask of the real tokens, (B, L)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self(input_ids, attention_mask).last, mask

    def prompt(self, name: str | None) -> str:
        """The prompt of this name, by default the encoder's default; empty if it has none.

        Raises:
            UserError: if it has no prompt of this name, or leaves the prompt out when it pools.
        """
        encoder = self._encoder
        name = encoder.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in encoder.prompts:
            raise UserError(
                f"the teacher {self.config.name_or_path} has no prompt {name!r}; it has {', '.join(encoder.prompts)}"
            )
        prompt = encoder.prompts[name] or ""
        if prompt and not getattr(encoder[1], "include_prompt", True):
            raise UserError(
                f"the teacher {self.config.name_or_path} leaves its prompt out of the mean over a text, which can't be "
                "distilled here"
            )
        return prompt

    def head_for(self, student: PreTrainedModel, apart: bool = False) -> SentenceHead:
        """What follows a student's body, to be trained: its own where it was loaded from a folder of
        sentence-transformers, of a path or of the Hub, that gives vectors of the teacher's size, else a copy of the
        teacher's.

        Where the student's hidden size differs from the teacher's, a dense layer takes its pooled states to that size.

        Args:
            apart: whether the student has a tokenizer of its own, and with it another body. Then the mean of its last
                states (or its own pooling, if it has one) goes through a dense layer to the teacher's vectors, of
                length 1 if the teacher's are.

        Raises:
            UserError: if sizes differ and the teacher's first part isn't a pooling.
        """
        own = self._own_encoder(student)
        if own is not None and (own.config.hidden_size, own.get_embedding_dimension()) == (
            student.config.hidden_size,
            self.vector_size,
        ):
            return SentenceHead(list(own.children())[1:])
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

        parts: list[Any] = list(copy.deepcopy(self.sentence_head.parts))
        size = student.config.hidden_size
        if apart:
            pooling = own[1] if own is not None and isinstance(own[1], Pooling) else Pooling(size)
            dense = Dense(pooling.pooling_output_dimension, self.vector_size, activation_function=nn.Identity())
            parts = [pooling, dense, *([Normalize()] if isinstance(parts[-1], Normalize) else [])]
        elif size != self.config.hidden_size:
            pooling = parts[0]
            if not isinstance(pooling, Pooling):
                raise UserError(
                    f"a student of hidden size {size} can't take over the teacher's {type(pooling).__name__}: give it "
                    f"the teacher's size, {self.config.hidden_size}"
                )
            of_student = Pooling(size, pooling.pooling_mode, pooling.include_prompt)
            sizes = of_student.pooling_output_dimension, pooling.pooling_output_dimension
            parts[:1] = [of_student, Dense(*sizes, activation_function=nn.Identity())]
        new = apart or size != self.config.hidden_size
        return SentenceHead(parts, new).float().requires_grad_(True)

    def _own_encoder(self, student: PreTrainedModel) -> Any | None:
        """The folder of sentence-transformers that a student was loaded from; None where it is another one."""
        name = student.config.name_or_path or ""
        if name in ("", self.config.name_or_path) or not (Path(name).is_dir() or not looks_like_path(name)):
            return None
        if not is_sentence_encoder(name, "student"):
            return None
        return load_sentence_encoder(name, "student", self._encoder.trust_remote_code)

    def save(
        self,
        student: PreTrainedModel,
        head: SentenceHead,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Write a student as a folder of sentence-transformers, with the teacher's prompts, tokenizer, longest row.

        Args:
            tokenizer: the student's own, if it has one, which knows the longest row itself.
        """
        from sentence_transformers import SentenceTransformer

        encoder = self._encoder
        body = copy.copy(encoder[0])
        body._modules = {**body._modules, "model": student}
        if tokenizer is not None:
            body.processor = tokenizer
        names = "prompts", "default_prompt_name", "similarity_fn_name"
        model = SentenceTransformer(
            modules=[body, *head.parts],
            device=str(student.device),
            **{name: getattr(encoder, name) for name in names},
        )
        training = student.training
        model.save_pretrained(str(folder), create_model_card=False)
        student.train(training)

    def _check(self) -> None:
        """Refuse an encoder that gives two texts other vectors than this teacher does."""
        encoder = self._encoder
        if "message" in getattr(encoder[0], "modality_config", {}):
            raise _unlike(encoder, "it puts each text into the chat template of its tokenizer first")
        try:
            expected = encoder.encode(_PROBES, prompt="", convert_to_tensor=True, show_progress_bar=False)
            rows = self.tokenizer(_PROBES, padding=True, truncation=True, return_tensors="pt").to(self.body.device)
            found = self.vectors(rows["input_ids"], rows["attention_mask"])
            self.vector_size: int = found.shape[-1]
        except Exception as error:  # parts of an encoder may be anybody's
            raise _unlike(encoder, f"{type(error).__name__} where it was tried") from error
        # In 16 bits, as a teacher may be, they agree in two digits.
        if not torch.allclose(found.float().cpu(), expected.float().cpu(), atol=0.05):
            raise _unlike(encoder, "two texts then have other vectors than its own")


def _unlike(encoder: SentenceTransformer, what: str) -> UserError:
    name = cast(Any, encoder).config.name_or_path if getattr(encoder, "config", None) is not None else ""
    return UserError(
        f"the teacher {name} can't be distilled: it must be a transformers body and a pooling of its last hidden "
        f"states, but {what}"
    )


def load_sentence_teacher(
    name: str, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> SentenceTeacher:
    """Load an embedding model by Hub name or path.

    Raises:
        UserError: what ``load_sentence_encoder`` and ``SentenceTeacher`` raise.
    """
    return SentenceTeacher(load_sentence_encoder(name, "teacher", trust_remote_code), dtype)
