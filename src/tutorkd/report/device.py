"""Files for devices: ``tutorkd export``."""

from pathlib import Path
from typing import Any

from tutorkd.files import stored_result
from tutorkd.report import settings
from tutorkd.report.evaluation import COSTS, SCORES, Bar, bars_of
from tutorkd.report.section import FINISHED, Part, Section, table

RECORD = Path("onnx") / "export.json"
TYPES = {
    **{"model": str, "checked_on": str, "threads": int, "agreement": str},
    **{"files": list[dict[str, Any]], "machine": dict[str, str]},
}
_BARS = {
    "bytes": COSTS["bytes"],
    "milliseconds": Bar("ms a row", "median, one at a time", 1, ".2f"),
    **SCORES,
}


def is_export(folder: Path) -> bool:
    """Whether a folder is one of ``tutorkd export``, or a checkpoint's own with its files beside the weights."""
    return stored_result(folder / RECORD, TYPES) is not None


def section(folder: Path, running: bool) -> Section:
    """What is known of the files; they are written all at once."""
    record = stored_result(folder / RECORD, TYPES) or {}
    return Section(
        kind="export",
        title=record["model"],
        state=FINISHED,
        progress=f"{len(record['files']) - 1} files",
        tiles=[(f"{file['name']}: ms a row", f"{file['milliseconds']:.2f}") for file in record["files"]],
        parts=[
            *parts(folder),
            *table("Environment", ("", ""), settings.facts(record["machine"].items())),
        ],
    )


def parts(folder: Path) -> list[Part]:
    """Sizes, speed and, on labelled rows, scores of each file beside PyTorch; nothing where there is no export."""
    record = stored_result(folder / RECORD, TYPES)
    if record is None:
        return []
    rows = [[file["name"], f"{file['agreement']:.4f}", f"{file['difference']:.1e}"] for file in record["files"][1:]]
    note = f"On {record['checked_on']}, threads: {record['threads']}. Nearness: {record['agreement']}."
    return [
        *bars_of("On a device", record["files"], _BARS),
        *table("Nearness to PyTorch", ("file", "nearness", "largest difference"), rows, words=1, note=note),
    ]
