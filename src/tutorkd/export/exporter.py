"""From a checkpoint to a folder of ONNX files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

from tutorkd.card import onnx_card
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from tutorkd.export.arguments import ExportArguments
from tutorkd.export.check import check, onnx_answer, torch_answer
from tutorkd.export.report import notes, table
from tutorkd.export.rows import rows_to_check_on
from tutorkd.export.to_onnx import input_names, write_float32, write_int8
from tutorkd.files import make_folder, stored_result, written_whole
from tutorkd.hub import load_model, load_tokenizer, loading
from tutorkd.runtime import describe

# The names under which Transformers.js looks for them.
FLOAT32, INT8 = "model.onnx", "model_quantized.onnx"
ONNX_FOLDER, RECORD_FILE = "onnx", "export.json"
_OF_ROWS, _OF_TOKENS = "ForSequenceClassification", "ForTokenClassification"
_HEADS = {_OF_ROWS: AutoModelForSequenceClassification, _OF_TOKENS: AutoModelForTokenClassification}
_EXACT = 1e-3  # a larger relative difference in float32 isn't rounding


def export(args: ExportArguments) -> str:
    """Write ``onnx/model.onnx`` and ``onnx/model_quantized.onnx``, with configuration, tokenizer and card.

    A classifier of rows or of tokens keeps its head and gives logits; of any other checkpoint the encoder alone is
    taken, which gives its last hidden states.

    Returns:
        What came of it, as Markdown.

    Raises:
        UserError: if there is no such checkpoint, the folder holds something else, or the float32 file doesn't give
            the checkpoint's answers; then nothing is written.
    """
    checkpoint = find_checkpoint(args.model)
    out = Path(args.output_dir)
    beside_weights = out.resolve() == Path(checkpoint.folder).resolve()
    if not beside_weights:
        _check_folder(out, checkpoint, args.restart)
    positions = check_checkpoint(checkpoint, None)
    tokenizer = load_tokenizer(checkpoint.folder, "model")
    with loading(args.model, "model"):
        config = AutoConfig.from_pretrained(checkpoint.folder)
    head, kind = _head(config)
    model, lacking = load_model(kind, checkpoint.folder, "model")
    if head and lacking:
        raise UserError(f"the model {args.model} lacks weights of its head, such as {lacking[0]}: fine-tune it first")
    classifies = head is not None and config.num_labels > 1
    classes = [config.id2label[code] for code in range(config.num_labels)] if classifies and head == _OF_ROWS else None
    rows, labels, words = rows_to_check_on(args, tokenizer, min(args.max_length, positions or args.max_length), classes)

    make_folder(out)
    names = input_names(model, tokenizer)
    with written_whole(out / ONNX_FOLDER) as scratch:
        write_float32(model, names, "logits" if head else "last_hidden_state", scratch / FLOAT32)
        write_int8(scratch / FLOAT32, scratch / INT8)
        files = {"PyTorch, float32": (checkpoint.bytes, torch_answer(model))}
        for name in (FLOAT32, INT8):
            files[name] = (scratch / name).stat().st_size, onnx_answer(scratch / name)
        results = check(files, tokenizer, names, rows, labels, classifies)
        if not results[1].difference < _EXACT:
            raise UserError(
                f"the float32 file doesn't give the answers of {args.model}: relative to their size they differ by "
                f"{results[1].difference:.1e}; nothing was written"
            )
        threads = torch.get_num_threads()
        text = f"{table(results, classifies)}\n\n{notes(words, threads, classifies)}\n"
        record = {"model": checkpoint.slug, "inputs": names, "checked_on": words, "threads": threads}
        record |= {"files": [asdict(result) for result in results], "machine": describe()}
        (scratch / RECORD_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
    if not beside_weights:
        with written_whole(out) as scratch:
            config.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            onnx_card(scratch, args.model, f"{ONNX_FOLDER}/{INT8}", head is not None, text)
    return text


def _check_folder(out: Path, checkpoint: Checkpoint, restart: bool) -> None:
    """Raises UserError if the folder holds anything but an earlier export of this checkpoint."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    record = stored_result(out / ONNX_FOLDER / RECORD_FILE)
    if record is None:
        raise UserError(f"{out} holds something that isn't an export of tutorkd; choose another --output_dir")
    if record.get("model") != checkpoint.slug and not restart:
        raise UserError(
            f"{out} holds the export of {record.get('model')}; choose another --output_dir, or --restart to "
            "overwrite it"
        )


def _head(config: PretrainedConfig) -> tuple[str | None, Any]:
    """Which of the heads that are kept a checkpoint has, and what loads it."""
    for head, kind in _HEADS.items():
        if any(name.endswith(head) for name in config.architectures or []):
            return head, kind
    return None, AutoModel
