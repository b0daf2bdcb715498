"""A small classifier: ``tutorkd distill-task``."""

from pathlib import Path

from tutorkd.evaluation.task_arguments import SUMMARY, parser
from tutorkd.files import RESULTS, stored_result
from tutorkd.report import settings
from tutorkd.report.evaluation import COSTS, SCORES, Bar, bars_of, tiles_of
from tutorkd.report.markdown import results_table
from tutorkd.report.section import FINISHED, Section, table

_AGREEMENT = {"agreement": Bar("same as teacher %", "", 100)}
_TIME = {"milliseconds": Bar("ms a row", "median", 1, ".2f")}


def is_task(folder: Path) -> bool:
    """Whether a folder is a finished one of ``tutorkd distill-task``."""
    return stored_result(folder / RESULTS, SUMMARY) is not None


def section(folder: Path, running: bool) -> Section:
    """What is known of teacher, student and its exported file; there is a result once all is done."""
    summary = stored_result(folder / RESULTS, SUMMARY) or {}
    models, options = summary["models"], parser()
    asked = {**summary["settings"], "output_dir": str(folder)}
    return Section(
        kind="small classifier",
        title=folder.absolute().name,
        state=FINISHED,
        progress=f"{len(models)} models",
        tiles=[*tiles_of(models, SCORES), *tiles_of(models, _TIME)],
        parts=[
            *bars_of("Scores", models, SCORES | _AGREEMENT),
            *bars_of("Sizes and speed", models, _TIME | COSTS),
            *results_table(folder),
            *settings.parts(summary["settings"], options),
            settings.again(settings.command(options.prog.split(), asked, options)),
            *table("Environment", ("", ""), settings.facts(summary["machine"].items())),
        ],
    )
