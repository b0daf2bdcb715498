"""From a checkpoint to a folder of ONNX files."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tutorkd.card import onnx_card
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from tutorkd.export.arguments import ExportArguments
from tutorkd.export.check import Rows, check, onnx_answer, torch_answer
from tutorkd.export.report import HIDDEN_STATES, SAME_CLASS, SCORES, notes, table
from tutorkd.export.rows import rows_to_check_on
from tutorkd.export.to_onnx import input_names, write_float32, write_int8
from tutorkd.files import PARTIAL, make_folder, stored_result, written_whole
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
        UserError: if there is no such checkpoint, the folder holds something else or can't be written, or the float32
            file doesn't give the checkpoint's answers; then nothing is written.
    """
    checkpoint = find_checkpoint(args.model)
    out = Path(args.output_dir)
    if out.resolve() != Path(checkpoint.folder).resolve():
        _check_folder(out, checkpoint, args.restart)
    positions = check_checkpoint(checkpoint, None)
    tokenizer = load_tokenizer(checkpoint.folder, "model")
    if positions:  # so that whoever runs the files can cut rows without knowing the model
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    with loading(args.model, "model"):
        config = AutoConfig.from_pretrained(checkpoint.folder)
    head, kind = _head(config)
    model, lacking = load_model(kind, checkpoint.folder, "model")
    if head and lacking:
        raise UserError(f"the model {args.model} lacks weights of its head, such as {lacking[0]}: fine-tune it first")
    classifies = head is not None and config.num_labels > 1
    classes = [config.id2label[code] for code in range(config.num_labels)] if classifies and head == _OF_ROWS else None
    longest = min(args.max_length, positions or args.max_length)
    rows, labels, words = rows_to_check_on(args, tokenizer, longest, classes)
    checked_on = rows, labels, f"{words}, cut at {longest} tokens"
    nearness = SAME_CLASS if classifies else SCORES if head else HIDDEN_STATES

    make_folder(out)
    try:
        return _write(out, checkpoint, model, tokenizer, head, nearness, checked_on)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror or error}") from error
    finally:
        for folder in (out / ONNX_FOLDER, out):  # nothing is left where nothing was written
            with suppress(OSError):
                folder.rmdir()


def _write(
    out: Path,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    head: str | None,
    nearness: str,
    checked_on: tuple[Rows, np.ndarray | None, str],
) -> str:
    rows, labels, words = checked_on
    names, output = input_names(model, tokenizer), "logits" if head else "last_hidden_state"
    with written_whole(out / ONNX_FOLDER) as scratch:
        print("writing float32 and int8", flush=True)
        write_float32(model, names, output, scratch / FLOAT32)
        write_int8(scratch / FLOAT32, scratch / INT8)
        print(f"holding them against PyTorch on {words}", flush=True)
        files = {"the checkpoint, PyTorch": (checkpoint.bytes, torch_answer(model))}
        for name in (FLOAT32, INT8):
            files[name] = (scratch / name).stat().st_size, onnx_answer(scratch / name)
        results = check(files, tokenizer, names, rows, labels, classifies=nearness == SAME_CLASS)
        if not results[1].difference < _EXACT:
            raise UserError(
                f"the float32 file doesn't give the answers of {checkpoint.name}: relative to their size they differ "
                f"by {results[1].difference:.1e}; nothing was written"
            )
        threads = torch.get_num_threads()
        text = f"{table(results, nearness)}\n\n{notes(words, threads, nearness)}\n"
        if head is None and (whole := (model.config.architectures or [""])[0]) != type(model).__name__:
            text += f"\nThe encoder alone was taken: the head of {whole} is left out.\n"
        record = {"model": checkpoint.slug, "inputs": names, "output": output, "checked_on": words, "threads": threads}
        record |= {"agreement": nearness, "files": [asdict(result) for result in results], "machine": describe()}
        (scratch / RECORD_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
    if out.resolve() != Path(checkpoint.folder).resolve():
        with written_whole(out) as scratch:
            model.config.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            onnx_card(scratch, checkpoint.name, f"{ONNX_FOLDER}/{INT8}", nearness == SAME_CLASS, head is not None, text)
    return text


def _check_folder(out: Path, checkpoint: Checkpoint, restart: bool) -> None:
    """Raises UserError if the folder holds anything but an earlier export of this checkpoint, or the rest of one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --output_dir")
    if not any(file.is_file() and PARTIAL not in file.parts for file in out.rglob("*")):
        return
    record = stored_result(out / ONNX_FOLDER / RECORD_FILE)
    if record is None:
        raise UserError(f"{out} holds something that isn't an export of tutorkd; choose another --output_dir")
    if any(out.glob("*.safetensors")):
        raise UserError(f"{out} is the folder of another checkpoint; choose another --output_dir")
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
