"""Tasks of mteb on a loaded embedding model."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tutorkd.data.columns import quiet_data
from tutorkd.errors import UserError
from tutorkd.hub import quiet_transformers
from tutorkd.hub_access import first_line

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class EmbeddingTasks:
    """Tasks by name.

    Args:
        names: such as ``STSBenchmark.v2``.

    Raises:
        UserError: if mteb isn't installed, or there is no such task.
    """

    def __init__(self, names: Sequence[str]):
        if find_spec("mteb") is None:
            raise UserError(
                "--tasks of embedding models are those of mteb, which isn't installed: pip install 'tutorkd[mteb]'"
            )
        import mteb

        self.names = sorted(set(names))
        try:
            with _quiet():
                self._tasks = mteb.get_tasks(tasks=self.names)
        except KeyError as error:  # whose message names the nearest
            raise UserError(f"mteb: {error.args[0].removeprefix('KeyError: ')}") from error

    def run(self, encoder: "SentenceTransformer") -> dict[str, float]:
        """Each task's main score, by task and score: the mean over its test splits and languages.

        Raises:
            UserError: if a task's data can't be loaded, or it fails.
        """
        import mteb

        found = {}
        for task in self._tasks:
            name = task.metadata.name
            try:
                with _quiet():
                    results = mteb.evaluate(
                        encoder,
                        [task],
                        cache=None,  # which would go by the model's name, not by its weights
                        co2_tracker=False,
                        show_progress_bar=False,
                    )
            except Exception as error:  # of tasks, data sets and metrics, which share no base class
                raise UserError(f"mteb can't run {name}: {first_line(error)}") from error
            (result,) = results.task_results
            found[f"{name}: {task.metadata.main_score}"] = float(result.get_score())
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what mteb and those that load its data say."""
    with quiet_transformers("mteb"), quiet_data(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
