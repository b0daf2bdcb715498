"""Tasks of EleutherAI's lm-eval on a loaded model."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutorkd.errors import UserError, nearest
from tutorkd.hub import quiet_transformers
from tutorkd.hub_access import first_line

_BATCH = 16
Metrics = dict[str, dict[str, float]]  # task, its metrics (and NAME_stderr of some)


class Tasks:
    """Tasks by name, of lm-eval's own and of a folder.

    Args:
        names: of tasks, of groups or tags of them, or patterns such as ``arc_*``.
        folder: with tasks of the user's, as yaml files.

    Raises:
        UserError: if lm-eval isn't installed, or there is no such task or folder.
    """

    def __init__(self, names: Sequence[str], folder: str | None):
        if find_spec("lm_eval") is None:
            raise UserError("--tasks are those of lm-eval, which isn't installed: pip install 'tutorkd[lm-eval]'")
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"task_path {folder}: there is no such folder")
        from lm_eval.tasks import TaskManager

        for own_alone in (True, False) if folder else (False,):  # lm-eval's thousands of tasks take long to list
            with quiet_transformers("lm_eval"):
                self._manager = TaskManager(include_path=folder, include_defaults=not own_alone)
            found = {name: self._manager.match_tasks([name]) for name in names}
            if all(found.values()):
                break
        for name, tasks in found.items():
            if not tasks:
                raise UserError(f"lm-eval has no task {name}{nearest(name, self._manager.all_tasks)}")
        self.names = sorted({task for tasks in found.values() for task in tasks})

    def run(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> Metrics:
        """Each task's metrics, as lm-eval gives them; a filter's name, where it has one, stands in parentheses.

        Raises:
            UserError: if a task's data can't be loaded, or it fails.
        """
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        try:
            with quiet_transformers("lm_eval"):
                results: Any = simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH),  # type: ignore[arg-type]
                    tasks=list(self.names),
                    task_manager=self._manager,
                    log_samples=False,
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
        except Exception as error:  # of tasks, data sets and metrics, which share no base class
            raise UserError(f"lm-eval can't run {', '.join(self.names)}: {first_line(error)}") from error
        return {task: _metrics(found) for task, found in results["results"].items()}


def _metrics(found: Mapping[str, Any]) -> dict[str, float]:
    metrics = {}
    for key, value in found.items():
        name, _, filtered = key.partition(",")
        if filtered and isinstance(value, int | float):
            metrics[name if filtered == "none" else f"{name} ({filtered})"] = float(value)
    return metrics
