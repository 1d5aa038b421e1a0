"""``python -m recipes.generate server=true`` as a process, and its clients."""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from recipes.config.serving_schema import TOKEN_VARIABLE
from tests.support.forked import Forked
from tests.support.nemo_files import CONFIG, MAIN, changed

NAME = "tiny"
LENGTH = 4096
START_S = 240


def long_model(directory: Path) -> Path:
    """NeMo's fixture, whose rotary positions go on for ever, as a model of longer texts."""
    return changed(
        MAIN / "model.nemo",
        directory / f"{NAME}.nemo",
        CONFIG,
        lambda content: re.sub(
            rb"(?m)^((?:max_position_embeddings|encoder_seq_length): )\d+", rb"\g<1>%d" % LENGTH, content
        ),
    )


class Server:
    """A server that answers; as a context it is stopped at the end.

    Args:
        model: the file to serve.
        settings: further ones.
        token: what its clients have to send; None: nothing.
    """

    def __init__(self, model: Path, *settings: str, token: str | None = None) -> None:
        arguments = [f"gpt_model_file={model}", "server=true", "port=0", "precision=fp32", "num_threads=1"]
        self.process = Forked("recipes.generate", [*arguments, *settings], partial(_set_token, token))
        self.token = token
        self.url = self._wait()

    def _wait(self) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"at (http://\S+)", self.process.written()[0]):
                url = found[1]
                try:
                    httpx.get(f"{url}/health")
                    return url
                except httpx.ConnectError:
                    pass
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"no server: {self.process.written()}")

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's, which does not try again."""
        return OpenAI(
            base_url=f"{self.url}/v1", api_key=self.token or "none", max_retries=0, timeout=240, **options
        )

    def post(self, body: Any, path: str = "/v1/completions", **options: Any) -> httpx.Response:
        """Sends JSON, as it is."""
        return httpx.post(f"{self.url}{path}", json=body, headers=self.headers, timeout=240, **options)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def metrics(self) -> dict[str, float]:
        """What /metrics shows, by its name with labels."""
        text = httpx.get(f"{self.url}/metrics", headers=self.headers).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def wait_until_free(self) -> None:
        """Returns once nothing is generated or waits."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = self.metrics()
            if not found["recipes_running_completions"] + found["recipes_waiting_completions"]:
                return
            time.sleep(0.02)
        raise AssertionError("places are still taken")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int | None, str, str]:
        """Ends it by a signal: exit code, standard output, standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=START_S)
        return self.process.returncode, out, err

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()


def _set_token(token: str | None) -> None:
    os.environ.pop(TOKEN_VARIABLE, None)
    if token is not None:
        os.environ[TOKEN_VARIABLE] = token
