"""From a checkpoint to a folder of ONNX files."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir

import torch

from tutorkd.card import onnx_card
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import Checkpoint, find_checkpoint
from tutorkd.export.arguments import ExportArguments
from tutorkd.export.check import Checked, check, onnx_answer, torch_answer
from tutorkd.export.report import nearness, notes, table
from tutorkd.export.rows import CheckedOn, check_given, rows_to_check_on
from tutorkd.export.sentence import copy_modules
from tutorkd.export.source import Source, load_source
from tutorkd.export.to_onnx import input_names, write_float32, write_int8
from tutorkd.files import stored_result, written_whole
from tutorkd.locks import held, holds_files
from tutorkd.runtime import describe

# The names under which Transformers.js looks for them.
FLOAT32, INT8 = "model.onnx", "model_quantized.onnx"
ONNX_FOLDER, RECORD_FILE = "onnx", "export.json"
_EXACT = 1e-3  # a larger relative difference in float32 isn't rounding


def export(args: ExportArguments) -> str:
    """Write ``onnx/model.onnx`` and ``onnx/model_quantized.onnx``, with configuration, tokenizer and card.

    A classifier of rows or of tokens keeps its head and gives logits; a model of sentence-transformers gives its last
    hidden states and the vector that it makes of them; of any other checkpoint the encoder alone is taken, which gives
    its last hidden states.

    Returns:
        What came of it, as Markdown.

    Raises:
        UserError: if there is no such checkpoint, the folder holds something else or can't be written, or the float32
            file doesn't give the checkpoint's answers; then nothing is written.
    """
    checkpoint = find_checkpoint(args.model)
    with held(Path(args.output_dir)):
        return _export(args, checkpoint)


def _export(args: ExportArguments, checkpoint: Checkpoint) -> str:
    out = Path(args.output_dir)
    beside_weights = out.resolve() == Path(checkpoint.folder).resolve()
    if not beside_weights:
        _check_folder(out, checkpoint, args.restart)
    check_given(args)
    source = load_source(checkpoint)
    checked_on = rows_to_check_on(args, source)
    try:
        text = _write_onnx(source, checked_on, out / ONNX_FOLDER)
        if not beside_weights:
            with written_whole(out) as scratch:
                source.model.config.save_pretrained(scratch)
                source.tokenizer.save_pretrained(scratch)
                if source.sentence_encoder:
                    copy_modules(checkpoint, out, scratch)
                output = source.outputs[-1]
                onnx_card(scratch, checkpoint.name, f"{ONNX_FOLDER}/{INT8}", output, source.classified, text)
    except OSError as error:
        places = f"{out}, or {gettempdir()}, where ONNX Runtime has files meanwhile,"
        raise UserError(f"{places} can't be written: {error.strerror or error}") from error
    finally:
        for folder in (out / ONNX_FOLDER, out):  # nothing is left where nothing was written
            with suppress(OSError):
                folder.rmdir()
    return text


def _write_onnx(source: Source, checked_on: CheckedOn, folder: Path) -> str:
    """Both files and their record, whole or not at all; returns what is said of them."""
    names, threads = input_names(source.model, source.tokenizer), torch.get_num_threads()
    with written_whole(folder) as scratch:
        print("writing float32 and int8", flush=True)
        write_float32(source.graph, names, source.outputs, scratch / FLOAT32)
        write_int8(scratch / FLOAT32, scratch / INT8)
        print(f"comparing them with PyTorch on {checked_on.words}", flush=True)
        files = {"the checkpoint, PyTorch": (source.checkpoint.bytes, torch_answer(source))}
        for name in (FLOAT32, INT8):
            files[name] = (scratch / name).stat().st_size, onnx_answer(scratch / name, source.outputs[-1])
        results = check(files, source.tokenizer, names, checked_on.rows, checked_on.scores, source.classified)
        _check_exact(results[1], source.checkpoint)
        record = {
            "model": source.checkpoint.slug,
            "inputs": names,
            "outputs": source.outputs,
            "checked_on": checked_on.words,
            "threads": threads,
            "agreement": nearness(source),
            "files": [asdict(result) for result in results],
            "machine": describe(),
        }
        (scratch / RECORD_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
    return f"{table(results)}\n\n{notes(checked_on.words, threads, source)}\n"


def _check_exact(float32: Checked, checkpoint: Checkpoint) -> None:
    """Raises UserError unless the float32 file gives the checkpoint's answers, also if they aren't finite."""
    if not float32.difference < _EXACT:
        raise UserError(
            f"the float32 file doesn't give the answers of {checkpoint.name}: their relative difference is "
            f"{float32.difference:.1e}; nothing was written"
        )


def _check_folder(out: Path, checkpoint: Checkpoint, restart: bool) -> None:
    """Raises UserError if the folder holds anything but an earlier export of this checkpoint, or the rest of one."""
    if not holds_files(out):
        return
    record = stored_result(out / ONNX_FOLDER / RECORD_FILE, {"model": str})
    if record is None:
        raise UserError(f"{out} holds something that isn't an export of tutorkd; choose another --output_dir")
    if any(out.glob("*.safetensors")):
        raise UserError(f"{out} is the folder of another checkpoint; choose another --output_dir")
    if record["model"] != checkpoint.slug and not restart:
        raise UserError(
            f"{out} holds the export of {record['model']}; choose another --output_dir, or --restart to overwrite it"
        )
