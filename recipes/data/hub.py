"""Whether the Hugging Face hub can be reached, and its data sets without it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

PATIENCE_S = 2.5
HTTP_CLIENTS = ("httpx", "httpx2", "requests")
"""What releases of huggingface_hub are built on, one each; which one is installed depends on the release."""


def hub_error() -> type[Exception]:
    """The base of what the HTTP client of the installed huggingface_hub raises."""
    from huggingface_hub.errors import HfHubHTTPError

    clients = [base for base in HfHubHTTPError.__mro__ if base.__module__.partition(".")[0] in HTTP_CLIENTS]
    error: type[Exception] = clients[-1]
    return error


def network_errors() -> tuple[type[Exception], type[OSError]]:
    """What the hub's libraries raise where the network fails."""
    return (hub_error(), OSError)


def hub_obstacle() -> str | None:
    """Why the hub cannot be used; None if it can.

    Only a connection is tried, to the hub (HF_ENDPOINT) or the proxy on the way there: the libraries would
    ask again and again for more than a minute before they give up.
    """
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").upper() in constants.ENV_VARS_TRUE_VALUES:
            return f"{variable} is set"
    hub = urlsplit(constants.ENDPOINT)
    proxy = getproxies().get(hub.scheme)
    if proxy and not proxy_bypass(hub.hostname or ""):
        way = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    else:
        way = hub
    port = way.port or (443 if way.scheme == "https" else 80)
    if not _answers(way.hostname or "", port):
        return f"{constants.ENDPOINT} cannot be reached"
    return None


@cache
def _answers(host: str, port: int) -> bool:
    """Whether a connection can be made in time."""
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), PATIENCE_S):
            connected.set()

    # In a thread that nobody waits for: looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return connected.is_set()


def is_cached(data_set: str, configuration: str | None) -> bool:
    """Whether a data set has been loaded on this machine before, so that it loads without the hub."""
    import datasets

    with without_hub():
        try:
            datasets.load_dataset_builder(data_set, configuration)
        except (OSError, ValueError):
            return False
    return True


@contextlib.contextmanager
def without_hub() -> Iterator[None]:
    """While inside, data sets come from directories and the cache, and nothing reaches for the network.

    The libraries read HF_HUB_OFFLINE once, when they are imported, hence their settings are changed, not the
    environment.
    """
    import datasets

    verbosity = datasets.logging.get_verbosity()
    with contextlib.ExitStack() as stack:
        stack.enter_context(setting(constants, "HF_HUB_OFFLINE", True))
        stack.enter_context(setting(datasets.config, "HF_HUB_OFFLINE", True))
        # A warning for every table that comes from the cache.
        datasets.logging.set_verbosity_error()
        stack.callback(datasets.logging.set_verbosity, verbosity)
        stack.enter_context(without_bars())
        yield


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """While inside, `datasets` shows no progress: it has bars for every split, of seconds at most.

    Those of downloads are huggingface_hub's, and stay.
    """
    import datasets

    with contextlib.ExitStack() as stack:
        if not datasets.are_progress_bars_disabled():
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        yield


@contextlib.contextmanager
def setting(module: Any, name: str, value: Any) -> Iterator[None]:
    """While inside, a module's variable has another value."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
