"""``tutorkd trim``: a model with the tokens that a text uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tutorkd.card import trimmed_card
from tutorkd.data.documents import Layout, nonblank
from tutorkd.data.sources import resolve_source
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, find_checkpoint
from tutorkd.files import PARTIAL, clear, stored_result, writing, written_whole
from tutorkd.locks import LOCK_FILES, held, holds_files
from tutorkd.positions import longest_row
from tutorkd.pretraining.named_text import NamedText
from tutorkd.vocabulary.arguments import TrimArguments
from tutorkd.vocabulary.check import answer, check_answers, check_tokens, rows_to_check
from tutorkd.vocabulary.counting import Ranking, read_text
from tutorkd.vocabulary.embeddings import parameters_with, trim_embeddings
from tutorkd.vocabulary.report import Trimmed, choices_table, outcome
from tutorkd.vocabulary.source import Source, load_source
from tutorkd.vocabulary.tokenizer import trimmed_tokenizer

RECORD_FILE = "trimmed.json"
_TEXTS, _LONGEST = 256, 10_000  # on which the smaller tokenizer is held against the whole one; of each the characters


def trim(args: TrimArguments, text: NamedText) -> str:
    """Write the smaller checkpoint, or only tell what vocabularies of several sizes would keep.

    Returns:
        What came of it, as Markdown.

    Raises:
        UserError: if model or text can't be used, the folder holds something else or can't be written, or the smaller
            model doesn't answer as the whole one; then nothing is written.
    """
    if not args.model:
        raise UserError("no model: name the one to trim with --model, a path or a Hub name")
    text.require()
    out = Path(args.output_dir)
    with held(out, not args.dry_run):
        if not args.dry_run:
            _check_folder(out, args)
        return _trim(args, text, find_checkpoint(args.model), out)


def _trim(args: TrimArguments, text: NamedText, checkpoint: Checkpoint, out: Path) -> str:
    source = load_source(checkpoint)
    model, tokenizer = source.model, source.tokenizer
    packed = read_text(text, tokenizer)
    ranking = Ranking.of(model, tokenizer, packed, source.needed)
    size, tokens = ranking.size(args.vocab_size, args.coverage), len(tokenizer)
    if args.dry_run:
        sizes = ranking.sizes(size)
        rows = list(zip(map(ranking.choice, sizes), parameters_with(model, sizes), strict=True))
        return choices_table(rows, size, (tokens, model.num_parameters()), ranking.fixed)
    kept = ranking.kept(size)
    before = Trimmed(tokens, model.num_parameters(), checkpoint.bytes, packed)
    checked = rows_to_check(packed.train, kept, longest_row(model))
    answers = [answer(model, row) for row in checked]
    trim_embeddings(model, kept)
    smaller = Source(model, trimmed_tokenizer(tokenizer, kept), source.whole)
    with writing(out), written_whole(out) as scratch:
        smaller.save(scratch)
        written = load_source(Checkpoint(str(out), str(scratch), 0, {}))
        check_answers(written.model, checked, answers, kept)
        check_tokens(_beginnings(text), tokenizer, written.tokenizer, kept)
        weights = sum(file.stat().st_size for file in scratch.rglob("*.safetensors"))
        after = Trimmed(size, written.model.num_parameters(), weights, read_text(text, written.tokenizer))
        told = outcome(checkpoint.title, ranking.choice(size), before, after, args.vocab_size)
        record = {"model": checkpoint.identity["source"], "kept": kept.tolist()}
        (scratch / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")
        trimmed_card(scratch, checkpoint.name, written.model, source.whole is not None, told)
        clear(out, {PARTIAL, *LOCK_FILES})  # the files of an earlier result
    return told


def _check_folder(out: Path, args: TrimArguments) -> None:
    """Raises UserError if the folder holds anything but an earlier result for this model."""
    if not holds_files(out):
        return
    record = stored_result(out / RECORD_FILE, {"model": str})
    if record is None:
        raise UserError(f"{out} holds something that isn't a trimmed model of tutorkd; choose another --output_dir")
    own = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    if str(out.resolve()) == own:
        raise UserError(f"{out} is the model's own folder; choose another --output_dir")
    if record["model"] != own and not args.restart:
        raise UserError(
            f"{out} holds {record['model']}, trimmed; choose another --output_dir, or --restart to overwrite it"
        )


def _beginnings(text: NamedText) -> Iterator[str]:
    """The beginnings of the first documents."""
    source = resolve_source(
        text.corpus[0],
        text.corpus_split,
        text.corpus_revision[0] if text.corpus_revision else None,
        text.corpus_data_files[0] if text.corpus_data_files else None,
        Layout(text.messages_column or text.text_column, text.lines, text.messages_column is not None),
    )
    documents = source.stream()
    if text.messages_column is not None:
        documents = (str(message.get("content") or "") for each in filter(None, documents) for message in each.messages)
    return (document[:_LONGEST] for document in islice(nonblank(documents), _TEXTS))
