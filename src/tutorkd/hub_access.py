"""Whether the Hub gives what a name stands for, asked once; what it or the way to it refuses, in words."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Literal

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tutorkd.errors import UserError
from tutorkd.words import one_line

Kind = Literal["model", "dataset"]
_TITLES = {"model": "model", "dataset": "data set"}
# A file that a repository of the kind may have. Its answer tells what keeps one from all the others: of a gated
# repository the README alone is open. The second is what datasets looks for, which takes a second to be loaded.
_FILES = {"model": constants.CONFIG_NAME, "dataset": "dataset_infos.json"}


class HubRefusal(Exception):
    """What keeps one from something on the Hub, and what to do, as the end of a sentence."""


@contextmanager
def reaching(name: str, kind: Kind) -> Iterator[None]:
    """Load ``name`` from the Hub in the block; where it isn't given now, from what was downloaded before.

    The Hub is asked first, without the client's retries, which take minutes where nothing answers. They are left to
    downloads that have begun.

    Raises:
        HubRefusal: if the Hub can't be reached or refuses, and no earlier download does.
    """
    refusal = None if is_offline_mode() else _refusal(name, kind)
    try:
        with _offline() if refusal else nullcontext():
            yield
    except UserError:
        raise
    except Exception as error:  # errors of the Hub client, the network, transformers and datasets share no base class
        if words := refusal or explain(error, name, kind):
            _refusal.cache_clear()  # whoever logs in, or has a network again, is let in
            raise HubRefusal(words) from error
        raise
    if refusal:
        _tell(f"{name}: {refusal}; it is taken from an earlier download")


@cache
def _tell(words: str) -> None:
    """Once, though several parts of a repository are loaded one after another."""
    print(words)


def ask_hub() -> None:
    """Ask the Hub for nothing, before a client that would wait for its answer without end.

    Raises:
        Exception: what the client's library says where the Hub can't be reached in HF_HUB_ETAG_TIMEOUT seconds.
    """
    get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)


@cache
def _refusal(name: str, kind: Kind) -> str | None:
    """Why the Hub doesn't give a name, None where it does; within HF_HUB_ETAG_TIMEOUT seconds."""
    try:
        get_hf_file_metadata(hf_hub_url(name, _FILES[kind], repo_type=kind), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except EntryNotFoundError:
        return None  # there is such a repository, without this file
    except Exception as error:
        return explain(error, name, kind) or f"the Hub's answer can't be understood: {first_line(error)}"
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """Have the clients take what is in their caches, as with HF_HUB_OFFLINE=1."""
    import datasets  # which takes a second

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def explain(error: BaseException, name: str, kind: Kind) -> str | None:
    """What an error says of the Hub or the way to it, and what to do; None where it is about something else."""
    for cause in _causes(error):
        if words := _explain(cause, name, kind):
            return words
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of, the last first."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        yield current
        seen.append(current)
        current = current.__cause__ or current.__context__


def _explain(error: BaseException, name: str, kind: Kind) -> str | None:
    bases = {base.__name__ for base in type(error).__mro__}  # the network's by name: httpx, or httpx2, by the client
    if isinstance(error, GatedRepoError):
        address = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        return f"on the Hub it is gated: accept its conditions on {address}, and log in with hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub has no such {_TITLES[kind]}: check the name or, if it is private, log in with hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return "the Hub has no such revision of it: name one of its branches, tags or commits"
    if isinstance(error, HFValidationError):
        return f"no {_TITLES[kind]} on the Hub can have such a name"
    if isinstance(error, OfflineModeIsEnabled | ConnectionError | LocalEntryNotFoundError) and is_offline_mode():
        return "HF_HUB_OFFLINE forbids asking the Hub: unset it, or name what is here or was downloaded before"
    if isinstance(error, HfHubHTTPError) and not isinstance(error, EntryNotFoundError):
        return _explain_status(error)
    if "TimeoutException" in bases:
        return f"the Hub ({constants.ENDPOINT}) doesn't answer in time: check the network, or run this again later"
    if bases & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
        return f"the Hub ({constants.ENDPOINT}) can't be reached: check the network ({first_line(error)})"
    if "TransportError" in bases or "Consistency check failed" in str(error):
        return "the download broke off: run this again"
    return None


def _explain_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 429:
        seconds = error.response.headers.get("Retry-After", "")
        wait = f"{seconds} seconds" if seconds.isdigit() else "some minutes"
        return f"the Hub had too many requests from here: wait {wait}, then run this again"
    if status >= 500:
        return f"the Hub reports an internal error ({status}): run this again later"
    if status in (401, 403):
        said = error.response.headers.get("X-Error-Message", "no reason given")
        return f"the Hub refuses ({status}: {said}): log in with hf auth login, as someone who may do this"
    return f"the Hub refuses: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters; its class where it says nothing."""
    said = one_line(error)
    return said if len(said) <= 200 else f"{said[:196]} ..."
