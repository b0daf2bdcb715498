"""``tutorkd inspect``: from a run's folder to its page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from tutorkd.errors import UserError
from tutorkd.identity import TEXT_DIGEST
from tutorkd.inspection.arguments import InspectArguments
from tutorkd.inspection.page import page
from tutorkd.inspection.sentences import SentenceReader, heldout_sentences, sentences_of_files
from tutorkd.inspection.states import options_of, states_of
from tutorkd.inspection.tutoring import Inspector, as_data
from tutorkd.pretraining.corpus import CorpusArguments
from tutorkd.pretraining.distillation import finished_trainer
from tutorkd.run_folder import run_settings


class Inspection(NamedTuple):
    """The page, what answers to sentences that are typed in it, and what is said of it in the terminal."""

    page: str
    look: Callable[[str, list[int]], dict[str, Any]]
    told: str


def inspect_run(args: InspectArguments) -> Inspection:
    """Look at a run's tutor at all states that the run kept.

    Raises:
        UserError: if the folder isn't that of a run of an encoder's Tutor-KD or keeps no tutor, teacher or text can't
            be read, or no sentence can be looked at.
    """
    folder = Path(args.run)
    options = options_of(args)
    states = states_of(folder)
    trainer = finished_trainer(options, states[-1].folder)
    tokenizer = trainer.processing_class
    if args.text:
        texts, source = sentences_of_files(args.text, args.text_column), f"of {', '.join(args.text)}"
    else:
        texts, source = _held_out(folder, options.text, tokenizer), "of the text that the run held out"
    reader = SentenceReader(tokenizer, options.text.max_length)
    inspector = Inspector(trainer, states, args.candidates, args.seed)
    sentences = inspector.masked(reader.spread(texts, args.sentences))
    if not sentences:
        raise UserError("no token of the sentences was masked: name longer ones with --text, or take another --seed")

    def look(text: str, words: list[int]) -> dict[str, Any]:
        return as_data(inspector.hiding(reader.read(text), set(words)))

    models = [Path(name).name for name in (options.args.teacher, options.args.student)]
    served = args.output is None
    html = page(" → ".join(models), folder, source, states, sentences, served)
    names = ", ".join(state.name for state in states)
    return Inspection(html, look, f"{len(sentences)} sentences {source}, the tutor after {names}")


def _held_out(folder: Path, text: CorpusArguments, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The sentences that the run held out, which are those of today's files only if these are the run's."""
    corpus = text.load(tokenizer)
    if corpus.digest != run_settings(folder).get(TEXT_DIGEST):
        raise UserError(
            f"the text of {folder} has changed since the run, so that what it held out isn't known: name a text with "
            "--text"
        )
    return heldout_sentences(corpus, tokenizer)
