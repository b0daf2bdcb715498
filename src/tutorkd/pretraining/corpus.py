"""Options for the text, shared by the commands that train on it; what reads it is loaded once it is to be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from tutorkd.objective import CAUSAL, MASKED, Objective
from tutorkd.pretraining.named_text import NamedText

if TYPE_CHECKING:
    from tutorkd.card import AboutText
    from tutorkd.data import PackedCorpus
    from tutorkd.data.texts import Texts

# Options that --help shows behind the others.
SELDOM = ("corpus_weights", "corpus_split", "corpus_revision", "corpus_data_files", "num_proc", "language", "cache_dir")
NOTABLE = 0.01  # share of unknown tokens, or of rows that are cut, from which on it is told


@dataclass
class CorpusArguments(NamedText):
    """The text to train on."""

    corpus_weights: list[float] | None = field(
        default=None,
        metadata={"help": "Shares of the rows from each corpus, in any unit."},
    )
    max_length: int = field(default=128, metadata={"help": "Tokens a row, special tokens included."})
    heldout: float = field(default=0.01, metadata={"help": "Share of documents held out for figures on unseen text."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read and tokenize the text during training, with one data loader worker, instead of before."
        },
    )
    language: list[str] | None = field(
        default=None, metadata={"help": "Language codes for the card; by default the base model's."}
    )

    def load(
        self, tokenizer: PreTrainedTokenizerBase, objective: Objective = MASKED, texts: Texts | None = None
    ) -> PackedCorpus:
        """The packed rows, for models of an objective, or ``texts`` as rows.

        Raises:
            UserError: what ``prepare_corpus`` raises, or if no corpus was named.
        """
        from tutorkd.data import prepare_corpus

        self.require()
        return prepare_corpus(
            self.corpus,
            tokenizer,
            **self._settings(objective, texts),
            cache_dir=self.cache_dir,
            streaming=self.streaming,
        )

    @property
    def beside(self) -> dict[str, list[int]]:
        """What a row of two tokens has beside its ids."""
        from tutorkd.data.chats import ANSWERED

        return {} if self.messages_column is None else {ANSWERED: [1, 1]}

    def described(self, packed: PackedCorpus, texts: Texts | None = None) -> list[str]:
        """What was loaded, a line for each corpus."""
        apart = texts is not None or self.messages_column is not None
        pairs = texts is not None and texts.taught is not None and texts.taught.column is not None
        unit = "document" if texts is None else texts.unit
        noun = "pairs" if pairs else f"{unit}s" if self.messages_column is None else "conversations"
        lines = []
        for part in packed.corpora:
            if part.tokens is None:
                known, where = "streamed", " at its beginning"
            else:
                known, where = f"{part.documents:,} {noun}, {part.tokens:,} tokens", ""
                known += f", {part.train_rows:,} rows of {'at most ' * apart}{self.max_length}"
            if part.unknown_share >= NOTABLE:
                known += f", {part.unknown_share:.1%} of the tokens{where} unknown to the tokenizer"
            lines.append(f"text     {part.source}: {known}, {part.heldout_rows:,} rows held out")
        if self.messages_column is not None and (cut := self._share_cut(packed)) >= NOTABLE:
            lines.append(
                f"text     {cut:.0%} of the rows have {self.max_length} tokens, where a longer conversation is cut: a "
                "larger --max_length takes more of it"
            )
        if self.heldout and not len(packed.heldout):
            lines.append(
                f"text     a single {noun[:-1]} leaves nothing to hold out, so there are no figures on unseen text; in "
                "txt, separate documents by blank lines, or make each line a document with --lines"
            )
        return lines

    def _share_cut(self, packed: PackedCorpus) -> float:
        """The share of rows that are as long as may be, from 0 to 1; of a stream that isn't known, and 0 is told."""
        from tutorkd.data.rows import row_lengths

        return 0.0 if self.streaming else float((row_lengths(packed.train) == self.max_length).mean())

    def check(
        self, tokenizer: PreTrainedTokenizerBase, objective: Objective = MASKED, texts: Texts | None = None
    ) -> list[str]:
        """Look at the beginning of each local file, before anything is spent; returns lines of what is left out.

        Raises:
            UserError: what ``check_corpus`` raises, or if no corpus was named.
        """
        from tutorkd.data.corpus import check_corpus

        self.require()
        settings = self._settings(objective, texts)
        return [f"text     {notice}" for notice in check_corpus(self.corpus, tokenizer, **settings)]

    def expected_rows(
        self, tokenizer: PreTrainedTokenizerBase, objective: Objective, texts: Texts | None
    ) -> float | None:
        """About how many rows a pass over the text has; None where that can't be told soon.

        Raises:
            UserError: what ``expected_rows`` raises.
        """
        from tutorkd.data.corpus import expected_rows

        if self.corpus_weights is not None:  # which repeat some rows
            return None
        of_reading_all = "weights", "revision", "data_files", "num_proc"
        settings = {k: v for k, v in self._settings(objective, texts).items() if k not in of_reading_all}
        return expected_rows(self.corpus, tokenizer, **settings)

    def about(self, packed: PackedCorpus) -> AboutText:
        """What a model card says of it: names on the Hub, of files the last part, and how much there was."""
        from tutorkd.card import AboutText
        from tutorkd.data.sources import HubDataset, resolve_source

        parts, datasets = [], []
        for name, part in zip(self.corpus, packed.corpora, strict=True):
            source = resolve_source(name, self.corpus_split)
            if isinstance(source, HubDataset):
                datasets.append(name.partition(":")[0])
            told = name if isinstance(source, HubDataset) else Path(name).name  # not where it is on this machine
            told += ", the answers of conversations" * (self.messages_column is not None)
            parts.append(told if part.tokens is None else f"{told}, {part.tokens:,} tokens")
        return AboutText(
            {"text": "; ".join(parts), "longest row": f"{self.max_length} tokens"}, datasets, self.language
        )

    def not_looked_up(self) -> list[str]:
        """Names that ``check`` takes for data sets of the Hub and doesn't ask it for."""
        from tutorkd.data.sources import HubDataset, resolve_source

        resolved = [resolve_source(name, self.corpus_split) for name in self.corpus]
        return [source.name for source in resolved if isinstance(source, HubDataset) and not source.offline]

    def _settings(self, objective: Objective, texts: Texts | None) -> dict[str, Any]:
        return {
            **self.reading,
            "max_length": self.max_length,
            "weights": self.corpus_weights,
            "heldout": self.heldout,
            "framed": objective is not CAUSAL,
            "texts": texts,
        }
