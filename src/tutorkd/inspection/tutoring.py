"""What a tutor does to a sentence, computed by the module that a run trained."""

from collections.abc import Collection, Sequence
from itertools import count, islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tutorkd import functional
from tutorkd.batch import Batch
from tutorkd.examples import Replacement, replacements, shown
from tutorkd.inspection.sentences import Sentence
from tutorkd.inspection.states import State
from tutorkd.masking import MaskingCollator
from tutorkd.methods.tutor_kd import Lesson, TutorKD
from tutorkd.trainer import DistillationTrainer

_TRIES = 50  # draws of masks, of which the first that hides anything counts


class Candidate(NamedTuple):
    """A token that may stand at a masked position."""

    token: str
    tutor: float  # its probability by the tutor, of which x' is drawn
    teacher: float  # by the teacher, P_T(. | X^M)
    original: bool  # whether it is x
    drawn: bool  # whether it is x'


class Position(NamedTuple):
    """What was done at a masked position, and what came of it."""

    done: Replacement
    kept: bool  # whether the tutor drew the token of the text
    entropy: float  # of the tutor's distribution, nats
    candidates: list[Candidate]  # likeliest first; x, x' and the teacher's likeliest are among them


class Tutored(NamedTuple):
    """A sentence, where it was masked, and what the tutor of each state did there.

    Attributes:
        places: indices into the sentence's pieces.
        read: what the tutor read at each of them in the place of the text.
        states: of each state the positions in their order.
    """

    sentence: Sentence
    places: list[int]
    read: list[str]
    states: list[list[Position]]


class Inspector:
    """A run's trained module, at any of the states that the run kept.

    Args:
        trainer: of the run, at one of its states.
        candidates: the tutor's likeliest tokens to list.
        seed: of masks and of the tutor's draws, which are the same at every state.
    """

    def __init__(self, trainer: DistillationTrainer, states: Sequence[State], candidates: int, seed: int):
        self.trainer, self.states = trainer, states
        self._module = cast(TutorKD, trainer.model.eval())
        self._count, self._seed = candidates, seed
        vocabulary = self._module.student.config.vocab_size
        probability = trainer.args.mlm_probability
        self._masking = MaskingCollator(trainer.processing_class, probability, seed, vocabulary)

    def masked(self, sentences: Sequence[Sentence]) -> list[Tutored]:
        """Sentences that are masked as rows are in training; one in which no draw hides anything is left out."""
        batches = [self._drawn(sentence, draw) for draw, sentence in enumerate(sentences)]
        hidden = [pair for pair in zip(sentences, batches, strict=True) if len(pair[1].masked_positions)]
        return self._tutored(hidden, tell=True)

    def hiding(self, sentence: Sentence, words: Collection[int]) -> Tutored:
        """A sentence in which all tokens of some words are hidden."""
        places = [place for place, word in enumerate(sentence.words) if word in words]
        if not places:
            return Tutored(sentence, [], [], [])
        batch = self._masking.hiding(sentence.input_ids, [sentence.before + place for place in places])
        return self._tutored([(sentence, batch)], tell=False)[0]

    def _drawn(self, sentence: Sentence, draw: int) -> Batch:
        draws = islice(count(draw << 32), _TRIES)
        batches = (self._masking([{"input_ids": sentence.input_ids, "draw": each}]) for each in draws)
        batch = next(batches)
        return batch if len(batch.masked_positions) else next((b for b in batches if len(b.masked_positions)), batch)

    def _tutored(self, hidden: Sequence[tuple[Sentence, Batch]], tell: bool) -> list[Tutored]:
        tokenizer = self.trainer.processing_class
        found = []
        for sentence, batch in hidden:
            places = [position - sentence.before for position in batch.masked_positions.tolist()]
            read = batch.corrupted_ids.flatten()[batch.masked_positions].tolist()
            found.append(Tutored(sentence, places, [shown(tokenizer, token) for token in read], []))
        for state in tqdm(self.states, "looking", unit=" checkpoints", disable=not tell):
            self.trainer._load_from_checkpoint(str(state.folder))
            for draw, (tutored, (_, batch)) in enumerate(zip(found, hidden, strict=True)):
                torch.manual_seed(self._seed + draw)
                tutored.states.append(self._look(self.trainer._prepare_inputs(batch)))
        return found

    @torch.no_grad()
    def _look(self, batch: Batch) -> list[Position]:
        lesson = self._module.teach(batch, self.trainer.teacher)
        policy = cast(Tensor, lesson.action.policy_logits)  # of a tutor that learns
        done = replacements(self.trainer.processing_class, batch, lesson)
        kept = (lesson.action.replaced_ids == batch.original_ids).tolist()
        entropies = functional.policy_entropy(policy).tolist()
        candidates = self._candidates(batch, lesson, policy)
        return [Position(*each) for each in zip(done, kept, entropies, candidates, strict=True)]

    def _candidates(self, batch: Batch, lesson: Lesson, policy: Tensor) -> list[list[Candidate]]:
        """Of each position, by the tutor's probability."""
        likeliest = policy.topk(min(self._count, policy.shape[-1]), dim=-1).indices
        asked = torch.stack([batch.original_ids, lesson.action.replaced_ids], -1)
        ids = torch.cat([likeliest, asked, lesson.teacher_logits.argmax(-1, keepdim=True)], -1)  # (k, n)
        by_tutor, by_teacher = (
            torch.stack([functional.token_log_probability(logits, column).exp() for column in ids.unbind(-1)], -1)
            for logits in (policy, lesson.teacher_logits)
        )
        tokenizer, found = self.trainer.processing_class, []
        for (original, drawn), *row in zip(
            *(each.tolist() for each in (asked, ids, by_tutor, by_teacher)), strict=True
        ):
            unique = {token: rest for token, *rest in zip(*row, strict=True)}
            ordered = sorted(unique.items(), key=lambda entry: -entry[1][0])
            found.append(
                [
                    Candidate(shown(tokenizer, token), tutor, teacher, token == original, token == drawn)
                    for token, (tutor, teacher) in ordered
                ]
            )
        return found


def as_data(tutored: Tutored) -> dict[str, Any]:
    """The sentence as the page's script takes it."""
    return {
        "pieces": tutored.sentence.pieces,
        "words": tutored.sentence.words,
        "places": tutored.places,
        "read": tutored.read,
        "states": [[_position(position) for position in positions] for positions in tutored.states],
    }


def _position(position: Position) -> dict[str, Any]:
    done = position.done
    return {
        "original": done.original,
        "replacement": done.replacement,
        "figures": figures(position),
        "candidates": [
            [each.token, _short(each.tutor), _short(each.teacher), each.original, each.drawn]
            for each in position.candidates
        ],
    }


def figures(position: Position) -> dict[str, float | None]:
    """The numbers of a position, by their keys in the page."""
    done = position.done
    return {
        "reward": _short(done.reward_teacher + done.reward_student),
        "reward_teacher": _short(done.reward_teacher),
        "reward_student": _short(done.reward_student),
        "ratio": _short(done.ratio),
        "answer": None if done.answer is None else _short(done.answer),
        "entropy": _short(position.entropy),
        "kept": float(position.kept),
    }


def _short(value: float) -> float:
    """Four digits, which is more than is shown."""
    return float(f"{value:.4g}")
