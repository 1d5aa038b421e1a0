"""Files on the Hugging Face hub and on web servers, read in ranges.

huggingface_hub lists files and retries requests. If a connection breaks, only its range is fetched again, so
nothing that has been read is requested twice.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn, TypeVar, cast

from fsspec.spec import AbstractBufferedFile
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, http_backoff

from recipes.data.download.corpora import CorpusSource
from recipes.data.download.corpus_files import DataFile, Listing, wanted
from recipes.data.hub import network_errors
from recipes.errors import UserError

_BLOCK_BYTES = 8 << 20
_BLOCKS = 8  # kept in memory: a table's columns are read in parallel, each from its own block
_ATTEMPTS = 4

Result = TypeVar("Result")


def remote_listing(source: CorpusSource, revision: str | None, only: str | None) -> Listing:
    """A corpus's files at their origin.

    Args:
        revision: a commit, branch or tag on the hub; None for the newest.
        only: a pattern that selects some of the files.

    Raises:
        UserError: no network, no such repository or revision, no such files.
    """
    if source.repo is None:
        return _web_listing(source)
    repo, api = source.repo, HfApi()
    commit = _patiently(lambda: api.dataset_info(repo, revision=revision, timeout=_timeout()).sha, repo)
    tree = _patiently(
        lambda: list(
            api.list_repo_tree(
                repo, source.directory or None, recursive=True, revision=commit, repo_type="dataset"
            )
        ),
        repo,
    )
    sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    headers = build_hf_headers()
    files = []
    for name in wanted(source, list(sizes), only):
        # By commit, so that the content cannot change during the download.
        url = hf_hub_url(repo, name, repo_type="dataset", revision=commit)
        files.append(_remote(name, sizes[name], url, headers))
    return Listing(constants.ENDPOINT, commit, files)


def _web_listing(source: CorpusSource) -> Listing:
    """A corpus that is one file on a web server."""
    url = source.file_url

    def ask() -> Any:
        # Not http_backoff, which would warn of what is told, or tried again, in one place for all sources.
        response = get_session().head(url, follow_redirects=True, timeout=_timeout())
        hf_raise_for_status(response)
        return response

    headers = _patiently(ask, url).headers
    if "content-length" not in headers:
        raise UserError(f"{url}: the server does not say how long the file is")
    version = headers.get("etag") or headers.get("last-modified")
    # No headers: the user's hub token must not be sent to other servers.
    file = _remote(url.rpartition("/")[2], int(headers["content-length"]), url, {})
    return Listing(url, version, [file])


def _remote(name: str, size: int, url: str, headers: Mapping[str, str]) -> DataFile:
    return DataFile(name, size, lambda: cast(BinaryIO, RangeFile(url, size, headers)))


class RangeFile(AbstractBufferedFile):
    """A file behind a URL, seekable, in bounded memory (64 MiB).

    Args:
        url: its address; redirects are followed.
        size: its length in bytes.
        headers: sent with every request.
    """

    def __init__(self, url: str, size: int, headers: Mapping[str, str]) -> None:
        super().__init__(
            None,
            url,
            block_size=_BLOCK_BYTES,
            cache_type="blockcache",
            cache_options={"maxblocks": _BLOCKS},
            size=size,
        )
        self._headers = dict(headers)

    def _fetch_range(self, start: int, end: int) -> bytes:
        """The bytes [start, end).

        Raises:
            UserError: the network or the server kept failing.
        """
        end = min(end, self.size)  # the cache asks for whole blocks
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        try:
            response = http_backoff("GET", self.path, headers=headers, timeout=_timeout())
            hf_raise_for_status(response)
        except network_errors() as error:
            _fail(self.path, error)
        content: bytes = response.content
        # A server without range support sends the whole file; its beginning would be taken for the middle.
        whole = response.status_code == 200 and (start, end) == (0, self.size)
        if not (whole or response.status_code == 206) or len(content) != end - start:
            raise UserError(
                f"{self.path}: asked for bytes {start} to {end - 1}, got status {response.status_code} with "
                f"{len(content)} bytes (the server must support range requests)"
            )
        return content


def _patiently(ask: Callable[[], Result], what: str) -> Result:
    """Call `ask`, and again after growing pauses while the server says that it cannot answer now.

    Raises:
        UserError: it never answers, refuses, or cannot be reached.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except HfHubHTTPError as error:
            busy = error.response is not None and error.response.status_code in (429, 500, 502, 503, 504)
            if not busy or attempt == _ATTEMPTS - 1:
                _fail(what, error)
        except network_errors() as error:
            _fail(what, error)
        time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


def _fail(what: str, error: Exception) -> NoReturn:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, HfHubHTTPError):
        raise UserError(f"{what}: the server answered: {reason}") from error
    raise UserError(
        f"cannot reach {what}: {reason}; without network, read a copy of its files with --mirror DIR"
    ) from error


def _timeout() -> Any:
    return constants.HF_HUB_DOWNLOAD_TIMEOUT
