"""An exported model beside its PyTorch original: the same answers on the same rows, size, speed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import PreTrainedTokenizerBase

from tutorkd.evaluation.cost import milliseconds_in_turns
from tutorkd.evaluation.metrics import answers_of
from tutorkd.evaluation.problem import Problem
from tutorkd.export.sentence import VECTOR
from tutorkd.export.source import Source

Rows = Sequence[Mapping[str, list[int]]]
Answer = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # inputs (rows, tokens) to the model's output

_BATCH = 8
_TIMED = 64


@dataclass(frozen=True)
class Checked:
    """What is known of one file.

    Attributes:
        name: of the file.
        bytes: its size.
        milliseconds: median time of one row at a time, from token ids to the output.
        difference: largest difference of an output from PyTorch's, through the root mean square of PyTorch's.
        agreement: mean cosine of a token's hidden states, or of a row's vector, with PyTorch's, or the share of answers
            (the class of a row or of a token, or of several classes the yes or no for each) that are PyTorch's. Of a
            regression the cosine of all rows' scores.
        lowest: the lowest of these cosines; None of a share.
        scores: on labelled rows by name, None without labels.
    """

    name: str
    bytes: int
    milliseconds: float
    difference: float
    agreement: float
    lowest: float | None
    scores: dict[str, float] | None


def torch_answer(source: Source) -> Answer:
    """The model itself, in float32 on the processor; a sentence encoder as sentence-transformers runs it."""

    @torch.inference_mode()
    def answer(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        if source.sentence_encoder:
            return source.sentence_encoder.forward(tensors)[VECTOR].numpy()
        return source.model(**tensors)[0].numpy()

    return answer


def onnx_answer(path: Path, output: str) -> Answer:
    """The output of that name by ONNX Runtime on the processor, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([output], dict(inputs))[0]


def check(
    files: Mapping[str, tuple[int, Answer]],
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    rows: Rows,
    scores: Callable[[np.ndarray], dict[str, float]] | None,
    classified: Problem | None,
) -> list[Checked]:
    """Compare answers.

    Args:
        files: size in bytes and answers by name; the first are PyTorch's, which the others are held against.
        names: of the model's inputs.
        rows: tokenised, without padding; they are compared in padded batches, and timed one by one.
        scores: takes outputs for all rows, (rows, d), or for all their tokens, (tokens, d).
        classified: how the outputs' logits are about classes; None where they are hidden states, vectors or scores.
    """
    batches = [_padded(tokenizer, names, rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    alone = [_padded(tokenizer, names, [row]) for row in rows[:_TIMED]]
    took = milliseconds_in_turns([answer for _, answer in files.values()], alone)
    reference: list[np.ndarray] = []
    checked = []
    for (name, (size, answer)), milliseconds in zip(files.items(), took, strict=True):
        outputs = [_of_tokens(answer(batch), batch["attention_mask"]) for batch in batches]
        reference = reference or outputs
        expected, given = np.concatenate(reference), np.concatenate(outputs)
        if classified:
            near = answers_of(classified, expected) == answers_of(classified, given)
        else:
            near = _cosines(expected, given)
        checked.append(
            Checked(
                name,
                size,
                milliseconds.median,
                float(np.abs(given - expected).max() / np.sqrt(np.square(expected).mean())),
                float(near.mean()),
                None if classified else float(near.min()),
                None if scores is None else scores(given),
            )
        )
    return checked


def _padded(tokenizer: PreTrainedTokenizerBase, names: Sequence[str], rows: Rows) -> dict[str, np.ndarray]:
    batch = tokenizer.pad({name: [row[name] for row in rows] for name in names}, return_tensors="np")
    return {name: batch[name].astype(np.int64) for name in names}


def _of_tokens(output: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """(n, d): of rows one each, or of their tokens without padding."""
    return output if output.ndim == 2 else output[attention_mask.astype(bool)]


def _cosines(expected: np.ndarray, given: np.ndarray) -> np.ndarray:
    if expected.shape[-1] == 1:  # a regression: its rows are one vector
        expected, given = expected.T, given.T
    products = (expected * given).sum(-1)
    return products / (np.linalg.norm(expected, axis=-1) * np.linalg.norm(given, axis=-1))
