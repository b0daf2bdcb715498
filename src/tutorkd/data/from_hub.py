"""Data sets of the Hugging Face Hub, through the cache of `datasets`."""

from typing import Any

from datasets import DatasetBuilder, get_dataset_config_names, load_dataset_builder
from huggingface_hub import is_offline_mode

from tutorkd.errors import UserError, nearest
from tutorkd.hub import nearest_path
from tutorkd.hub_access import HubRefusal, explain, first_line, reaching

_SHOWN = 20  # configurations can be hundreds, one for each language


def load_from_hub(
    name: str, split: str, streaming: bool = False, revision: str | None = None, data_files: str | None = None
) -> Any:
    """Return one split of the data set `name` or `name:config`, as a `Dataset` or, streamed, an `IterableDataset`.

    Args:
        revision: a branch, tag or commit; by default the main branch.
        data_files: a path or glob in the repository, of files that are then its split train; by default those
            that the data set says.

    Raises:
        UserError: there is no such data set, configuration or split, it can't be reached, or it can't be read.
    """
    path, config = name_and_config(name)
    try:
        with reaching(path, "dataset"):
            builder = _builder(name, path, config, revision, data_files)
            if revision and is_offline_mode() and builder.hash != revision:  # which `datasets` doesn't look at then
                raise UserError(
                    f"data {name}: without the Hub there is only the version that was read last, {builder.hash}; give "
                    f"that as the revision instead of {revision!r}, or give none"
                )
            _check_split(name, builder, split)
            if streaming:
                return builder.as_streaming_dataset(split=split)
            builder.download_and_prepare()
            return builder.as_dataset(split=split)
    except HubRefusal as refusal:
        raise UserError(
            f"data {name}: there is no such file or folder here; {refusal}{nearest_path(name)}"
        ) from refusal
    except UserError:
        raise
    except Exception as error:  # errors of arrow, `datasets` and those who wrote the files share no base class
        raise unreadable(name, error) from error


def unreadable(name: str, error: Exception) -> UserError:
    """Return the error for a data set whose files can't be read to their end."""
    reason = explain(error, name_and_config(name)[0], "dataset") or first_line(error)
    return UserError(f"data {name} can't be read: {reason}")


def name_and_config(name: str) -> tuple[str, str | None]:
    """Return the parts of `name:config`; None where no configuration is named."""
    path, _, config = name.partition(":")
    return path, config or None


def _builder(name: str, path: str, config: str | None, revision: str | None, data_files: str | None) -> DatasetBuilder:
    """Return what makes the data set, with nothing but its description fetched."""
    try:
        return load_dataset_builder(path, config, revision=revision, data_files=data_files)
    except (ValueError, FileNotFoundError) as error:
        if data_files and config is None and not is_offline_mode() and explain(error, path, "dataset") is None:
            raise UserError(f"data {name}: {data_files!r} doesn't name readable files of one kind there") from error
        if isinstance(error, FileNotFoundError):
            raise
        known = [] if is_offline_mode() else get_dataset_config_names(path, revision=revision)
        if not known or config in known:
            raise  # offline, the error names the configurations that were downloaded
        if config is None:
            raise UserError(
                f"data {name}: name a configuration, as {path}:{known[0]}; it has {_list(known)}"
            ) from error
        near = nearest(config, known)
        raise UserError(f"data {name}: there is no configuration {config!r}; it has {_list(known)}{near}") from error


def _check_split(name: str, builder: DatasetBuilder, split: str) -> None:
    """Raise a `UserError` that names the splits unless there are those of `split`, before anything is downloaded."""
    known = [str(each) for each in builder.info.splits or builder.config.data_files or ()]
    for part in split.split("+"):
        wanted = part.partition("[")[0].strip()
        if known and wanted not in known:
            near = nearest(wanted, known)
            raise UserError(f"data {name}: there is no split {wanted!r}; it has {_list(known)}{near}")


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
