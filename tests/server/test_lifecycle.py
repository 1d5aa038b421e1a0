"""What the server does when clients leave, when there are too many, and when it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.nemo_files import MAIN
from tests.support.paths import ROOT
from tests.support.run_cases import environment
from tests.support.server import LENGTH, NAME, Server, long_model
from tests.support.spy import ENGINE, spy

TOKEN = "0123456789abcdef-token"
#: Runs until somebody ends it.
LONG = {"model": NAME, "prompt": "a", "max_tokens": LENGTH - 10, "logit_bias": {"2": -100}}
COMMAND = [sys.executable, "-m", "recipes.generate", f"gpt_model_file={MAIN / 'model.nemo'}", "server=true"]
WAYS = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return long_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def small(model: Path) -> Iterator[Server]:
    """One place, room for one that waits, small requests, and a token."""
    limits = ("serving.max_waiting=1", "serving.max_body_bytes=1000", "serving.model_name=my/model")
    with Server(model, "batch_size=1", *limits, token=TOKEN) as running:
        yield running


@contextmanager
def being_generated(server: Server, **fields: Any) -> Iterator[Iterator[str]]:
    """The further lines of a long answer that has begun; leaving the context leaves the answer."""
    body = LONG | {"stream": True} | fields
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=240
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield lines


def test_a_token_is_needed(small: Server) -> None:
    assert small.client().models.list().data[0].id == "my/model"
    for headers in (
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Basic " + TOKEN},
        {"Authorization": b"Bearer \xff"},
    ):
        for path in ("/v1/models", "/metrics", "/nothing", "/generate"):
            answer = httpx.get(f"{small.url}{path}", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{small.url}/health").json() == {"status": "ok"}
    # The scheme's case does not matter (RFC 9110).
    assert httpx.get(f"{small.url}/v1/models", headers={"Authorization": f"bearer  {TOKEN}"}).is_success
    # Behind a proxy it has another name.
    named = httpx.get(f"{small.url}/v1/models", headers=small.headers | {"Host": "models.example.org"})
    assert named.status_code == 200


def test_a_body_that_is_too_large(small: Server) -> None:
    answer = small.post({"model": "my/model", "prompt": "x" * 1000})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "the request's body has more than 1,000 bytes"


@WAYS
def test_a_client_that_leaves_frees_its_place(small: Server, stream: bool) -> None:
    small.wait_until_free()
    before = small.metrics()["recipes_unfinished_requests_total"]
    if stream:
        with being_generated(small, model="my/model"):
            pass
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{small.url}/v1/completions",
                json=LONG | {"model": "my/model"},
                headers=small.headers,
                timeout=0.3,
            )
    small.wait_until_free()
    after = small.metrics()
    assert after["recipes_unfinished_requests_total"] == before + 1
    # It was not simply generated to its end.
    assert after["recipes_generated_tokens_total"] < LENGTH


def test_a_full_queue(small: Server) -> None:
    small.wait_until_free()
    with being_generated(small, model="my/model"):
        body = {"model": "my/model", "prompt": "x", "max_tokens": 2, "logit_bias": {"2": -100}}
        refused = small.post(body | {"n": 2})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError, match="1 completions run or wait, 2 more"):
            small.client().completions.create(model="my/model", prompt="x", n=2)
        # The one that still has room gets its answer once the place is free.
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(small.post(body)))
        waiting.start()
        while not small.metrics()["recipes_waiting_completions"]:
            assert waiting.is_alive()
    waiting.join()
    assert answers[0].json()["usage"]["completion_tokens"] == 2
    assert small.metrics()['recipes_requests_total{path="/v1/completions",status="429"}'] >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish(model: Path, number: int) -> None:
    with Server(model) as server:
        with being_generated(server, max_tokens=500) as lines:
            server.process.send_signal(number)
            received = [line for line in lines if line]
        assert received[-1] == "data: [DONE]"
        assert server.stop() == (0, server.process.written()[0], "")


def test_a_signal_ends_requests_that_take_too_long(model: Path) -> None:
    with Server(model, "serving.shutdown_timeout=0") as server:
        with being_generated(server) as lines:
            server.process.send_signal(signal.SIGTERM)
            received = [line for line in lines if line]
        assert '"code": "shutting_down"' in received[-1]
        code, _, err = server.stop()
        assert (code, err) == (0, "")


def test_a_second_signal_does_not_wait(model: Path) -> None:
    with Server(model, "serving.shutdown_timeout=1000") as server:
        with being_generated(server):
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGINT)
            code, _, err = server.stop(signal.SIGINT)
        assert (code, err) == (0, "")


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, f"port={port}"],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: port={port}: cannot listen there at 127.0.0.1: Address already in use\n"


def test_more_tokens_than_the_model_reads(model: Path) -> None:
    with pytest.raises(AssertionError, match=r"serving\.max_length=4,097: the model reads 4,096 tokens"):
        Server(model, "serving.max_length=4097")


def test_dry_run(model: Path) -> None:
    """The settings and the address are checked, and nothing heavy is imported."""
    settings = [f"gpt_model_file={model}", "server=true", "port=0", "dry_run=true"]
    (answer,) = spy(["recipes.generate", *settings])
    assert (answer.code, answer.err, answer.imported & ENGINE) == (0, "", set())
    assert answer.out.startswith(f"would serve {model} at http://127.0.0.1:")


def test_missing_packages(tmp_path: Path) -> None:
    """One line that names the extra."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: server=true: uvicorn not installed: they come with the extra 'server'"
    )
