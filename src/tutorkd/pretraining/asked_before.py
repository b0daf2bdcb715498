"""What a teacher is asked about a text before training, so that no step has to ask it."""

import functools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from tutorkd.config import DistillationConfig
from tutorkd.data import PackedCorpus
from tutorkd.data.cache import cache_root
from tutorkd.data.rows import RowsBeside
from tutorkd.errors import UserError
from tutorkd.identity import with_contents
from tutorkd.kept_outputs import folder_of_outputs
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.pretraining.memory import device_bytes
from tutorkd.sentence_teacher import SentenceTeacher
from tutorkd.sharding import weight_bytes
from tutorkd.spelling import FORMAT as SPELLED
from tutorkd.spelling import Spelling
from tutorkd.teacher import Teacher, frozen
from tutorkd.teacher_likeliest import FORMAT, counts_of, likeliest_bytes, with_likeliest
from tutorkd.teacher_respelled import check_tokens, share_unknown
from tutorkd.teacher_vectors import MOST_BYTES, VECTORS, folder_of_vectors, kept_vectors, vector_bytes

_MANY_UNKNOWN = 0.1
_SHARE_FOR_TEACHER = 0.7  # of a device's memory; a larger teacher runs layer by layer from the machine's


def with_vectors(options: Distillation, teacher: SentenceTeacher, corpus: PackedCorpus) -> tuple[Any, Any]:
    """The rows of a corpus with the teacher's vectors, where it pays to keep these.

    Raises:
        UserError: if they can't be written.
    """
    rows = corpus.train
    if isinstance(rows, IterableDataset) or options.settings.layers_count:
        return rows, corpus.heldout
    vectors = teachers_vectors(options, teacher, corpus)
    return (rows if vectors is None else RowsBeside(rows, "vector", vectors)), corpus.heldout


def teachers_vectors(options: Distillation, teacher: SentenceTeacher, corpus: PackedCorpus) -> np.ndarray | None:
    """The teacher's vectors of the rows of a corpus, where it pays to keep them; says whether they are kept.

    They are where each row is read once or more, and the disk holds them easily.

    Raises:
        UserError: if they can't be written.
    """
    config, rows = options.config, corpus.train
    size = vector_bytes(teacher, len(rows))
    read = rows_read(config, len(rows))
    content = _content(options.args.teacher)
    identity = {**content, "rows": corpus.digest, "dtype": str(teacher.model.dtype)}
    folder = folder_of_vectors(identity, cache_root(options.text.cache_dir))
    if not content or size > MOST_BYTES or (read < len(rows) and not folder.exists()):
        print("vectors  the teacher's vectors are computed as the rows are read")
        return None
    kept = kept_vectors(teacher, rows, folder, config.device)
    known = "computed before" if kept.reused else "computed once and kept"
    print(f"vectors  {len(rows):,} of the teacher, {size / 1e6:,.1f} MB, {known} in {kept.folder}")
    return kept.arrays[VECTORS]


def rows_read(config: DistillationConfig, rows: int) -> int:
    """How many rows a run reads, of so many, some of them several times."""
    if config.max_steps <= 0:
        return math.ceil(config.num_train_epochs * rows)
    return config.max_steps * config.train_batch_size * config.gradient_accumulation_steps * config.world_size


def _content(teacher: str) -> dict[str, Any]:
    """What a teacher is, however its name is spelled; nothing where that isn't known."""
    named = {"teacher": teacher}
    return {key: value for key, value in with_contents(named).items() if key not in named}


def check_likeliest(options: Distillation, teacher: Teacher, spelling: Spelling | None) -> None:
    """Refuse runs whose teacher can't be asked before training.

    Raises:
        UserError: if the text is streamed, or the teacher sharded, or it lacks tokens of its tokenizer.
    """
    if spelling is not None:
        check_tokens(teacher, spelling)
    if options.text.streaming:
        raise UserError("--teacher_top_k asks the teacher about all rows before training: leave out --streaming")
    if teacher.sharded:
        raise UserError(
            "--teacher_top_k asks the teacher in one process, in which its layers need not fit onto the device "
            "together: leave out --shard_teacher"
        )


def cost_of_asking(teacher: Teacher, k: int, vocabulary: int, tokens: float) -> tuple[float, float]:
    """About what it takes to ask a teacher about so many tokens: floating-point operations, two for each parameter
    (Kaplan et al., "Scaling Laws for Neural Language Models", 2020, section 2.1), and bytes on disk.

    Args:
        vocabulary: as for ``likeliest_rows``.
    """
    parameters = sum(p.numel() for part in teacher.parts for p in part.model.parameters())
    return 2 * parameters * tokens, tokens * likeliest_bytes(1, k, vocabulary)


def likeliest_rows(
    options: Distillation,
    teacher: Teacher,
    vocabulary: int,
    tokenizer: PreTrainedTokenizerBase,
    spelling: Spelling | None,
    corpus: PackedCorpus,
) -> tuple[Any, Any]:
    """The rows of a corpus with the teacher's likeliest tokens; the teacher isn't needed any more then.

    Args:
        vocabulary, tokenizer, spelling: as for ``with_likeliest``.

    Raises:
        UserError: if these can't be written, or there is no room for them, or the teacher can't read many of the rows.
    """
    if spelling is not None:
        _tell_unknown(share_unknown(teacher, corpus.train, spelling))
    config, k = options.config, options.settings.teacher_top_k
    parts = {"train": corpus.train, **({"heldout": corpus.heldout} if len(corpus.heldout) else {})}
    content = _content(options.args.teacher) or {"teacher": options.args.teacher}
    content = {**content, "rows": corpus.digest, "dtype": config.teacher_dtype}
    identity = {**content, "format": str(teacher.model.dtype), "top_k": k, "vocabulary": vocabulary}
    identity |= {"spelled": SPELLED} if spelling else {}
    cache = cache_root(options.text.cache_dir)
    folders = {name: folder_of_outputs("likeliest", FORMAT, {**identity, "part": name}, cache) for name in parts}
    sizes = {name: likeliest_bytes(int(counts_of(parts[name]).sum()), k, vocabulary) for name in parts}
    missing = [name for name in parts if not folders[name].exists()]
    if missing:
        require_room(cache, sum(sizes[name] for name in missing))
        if (read := rows_read(config, len(corpus.train))) < len(corpus.train):
            print(f"teacher  is asked about all {len(corpus.train):,} rows, of which this run reads {read:,}")

    @functools.cache
    def reader() -> Teacher:
        asked = teacher
        if config.teacher_dtype == "int8" and not teacher.quantised:
            # Whether or not answers are kept, the student starts from weights that aren't rounded.
            asked = frozen(teacher)
            asked.quantise()
        room = _SHARE_FOR_TEACHER * device_bytes(config.device)
        fits = sum(weight_bytes(part.model) for part in asked.parts) <= room
        return asked.to(config.device) if fits else asked.visiting(config.device)

    found = {
        name: with_likeliest(rows, reader, tokenizer, k, vocabulary, folders[name], config.device, spelling)
        for name, rows in parts.items()
    }
    teacher.to("cpu")
    told = "computed once and kept" if missing else "computed before"
    print(f"teacher  its {k} likeliest tokens at each position, {sum(sizes.values()) / 1e6:,.1f} MB, {told} in {cache}")
    return found["train"], found.get("heldout", corpus.heldout)


def _tell_unknown(share: float) -> None:
    """Say of how many tokens the teacher knows nothing and, where these are many, why."""
    print(f"teacher  knows nothing of {share:.1%} of the tokens, which it cuts otherwise: there the text is learned")
    if share > _MANY_UNKNOWN:
        print(
            "         so many come of a tokenizer that changes what it reads (capitals, accents, spaces), of chat "
            "templates that write other answers, or of rows that are longer in the teacher's tokens"
        )


def require_room(folder: Path, size: int) -> None:
    """Refuse to fill a disk.

    Raises:
        UserError: if there isn't room for so many bytes where a folder is, or will be.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if (free := shutil.disk_usage(there).free) < size:
        raise UserError(
            f"the teacher's likeliest tokens take {size / 1e9:,.1f} GB, and {there} has {free / 1e9:,.1f} GB left: "
            "choose a smaller --teacher_top_k, less text, or another --cache_dir"
        )
