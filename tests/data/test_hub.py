"""The hub that answers, that does not, and what was read from it before."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import httpx2
import pytest
import requests
from huggingface_hub import constants

from recipes.data.hub import hub_obstacle, network_errors
from tests.support.hub import StandInHub
from tests.support.paths import ROOT
from tests.support.tiny_text_model import FIXTURE


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("base", "failure"),
    [
        ((httpx.HTTPError, OSError), httpx.ConnectTimeout("")),  # huggingface_hub 1
        ((httpx2.HTTPError, OSError), httpx2.ConnectTimeout("")),  # 2
        ((requests.HTTPError,), requests.ConnectTimeout("")),  # 0
    ],
)
def test_failures_of_any_http_client_are_known(
    monkeypatch: pytest.MonkeyPatch, base: tuple[type, ...], failure: Exception
) -> None:
    monkeypatch.setattr("huggingface_hub.errors.HfHubHTTPError", type("HfHubHTTPError", base, {}))
    assert isinstance(failure, network_errors()) and not isinstance(ValueError(), network_errors())


def test_no_http_client_is_needed_to_start() -> None:
    """Which of them is there depends on the release of huggingface_hub."""
    clients = "import sys; sys.modules |= dict.fromkeys(['httpx', 'httpx2', 'requests'])"
    modules = "recipes.evaluate, recipes.evaluation.tasks, recipes.data.hub, tools.prefetch_benchmarks"
    subprocess.run([sys.executable, "-c", f"{clients}\nimport {modules}"], cwd=ROOT, check=True)


def test_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandInHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert hub_obstacle() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_hub_that_does_not(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    endpoint = f"http://{host}:{closed_port()}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert hub_obstacle() == f"{endpoint} cannot be reached"


def test_behind_a_proxy_only_the_proxy_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://no-such-host.invalid")
    with StandInHub() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert hub_obstacle() is None
        monkeypatch.setenv("no_proxy", "no-such-host.invalid")
        assert hub_obstacle() == "http://no-such-host.invalid cannot be reached"
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{closed_port()}")
    assert hub_obstacle() == "http://no-such-host.invalid cannot be reached"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_a_hub_that_must_not_be_asked(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with StandInHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setenv(variable, "1")
        assert hub_obstacle() == f"{variable} is set"
        monkeypatch.setenv(variable, "0")
        assert hub_obstacle() is None


TWICE = """
import sys
from recipes.data import hub
from recipes.errors import UserError
from recipes.evaluation.tasks import check_tasks, load_tasks
print("ready", flush=True)
for line in sys.stdin:
    hub._answers.cache_clear()
    try:
        check_tasks(line.split())
        print({name: len(task.dataset["test"]) for name, task in load_tasks(line.split())["tasks"].items()})
    except UserError as error:
        print(error)
    print(*sorted({"torch"} & set(sys.modules)), flush=True)
"""


def test_what_was_loaded_before_loads_without_the_hub(tmp_path: Path) -> None:
    """In a process of its own, as the libraries read their settings when they are imported."""
    root = FIXTURE / "aps/super_glue"
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with StandInHub() as hub:
        hub.add("aps/super_glue", files)
        environment = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-c", TWICE],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"

        def ask(tasks: str) -> str:
            assert process.stdin and process.stdout
            print(tasks, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert process.stdout.readline() == "\n", "torch has been imported"
            return answer

        loaded = ask("boolq")
        asked = len(hub.requests)
    assert loaded == "{'boolq': 2}\n" and asked > 0
    assert ask("boolq") == loaded and len(hub.requests) == asked
    missing = ask("boolq wic")
    assert missing.startswith(f"cannot load task wic: {hub.url} cannot be reached; set mirror=DIR ")
    assert "python -m tools.prefetch_benchmarks DIR --tasks boolq,wic" in missing
    process.communicate()
    assert process.returncode == 0
