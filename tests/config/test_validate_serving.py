"""Settings of a server that are refused before anything heavy is imported."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from recipes.config.hydra_app import compose
from recipes.config.schema import GenerateConfig
from recipes.config.serving_schema import TOKEN_VARIABLE
from recipes.config.validate_jobs import validate_generate
from recipes.config.validate_serving import is_loopback
from recipes.errors import UserError
from tests.support.configs import changed, refusal

OTHERS_CAN_REACH_IT = f"others can reach it: set a token in the environment variable {TOKEN_VARIABLE}"


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    tarfile.open(tmp_path / "model.nemo", "w").close()
    return str(tmp_path / "model.nemo")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": ["x"]}, "prompts=['x']: would be ignored: with server=true every request"),
        ({"prompts_jsonl": "p.jsonl"}, "prompts_jsonl=p.jsonl: would be ignored"),
        ({"output_jsonl": "o.jsonl"}, "output_jsonl=o.jsonl: would be ignored"),
        ({"json": True}, "json=True: would be ignored"),
        ({"seed": 1}, "seed=1: would be ignored"),
        ({"inference__greedy": True}, "inference.greedy=True: would be ignored"),
        ({"inference__end_strings": []}, "inference.end_strings=[]: would be ignored"),
        ({"port": -1}, "port=-1: must lie between 0 and 65,535"),
        ({"port": 65536}, "port=65,536: must lie between 0 and 65,535"),
        ({"serving__max_length": 0}, "serving.max_length=0: must be positive"),
        ({"serving__max_completion_tokens": 0}, "serving.max_completion_tokens=0: must be positive"),
        ({"serving__max_completions": 0}, "serving.max_completions=0: must be positive"),
        ({"serving__max_body_bytes": 0}, "serving.max_body_bytes=0: must be positive"),
        ({"serving__max_waiting": -1}, "serving.max_waiting=-1: must not be negative"),
        (
            {"serving__shutdown_timeout": float("nan")},
            "serving.shutdown_timeout=nan: must not be negative",
        ),
        ({"serving__model_name": " "}, "serving.model_name=' ': is empty"),
        ({"serving__host": "0.0.0.0"}, f"serving.host=0.0.0.0: {OTHERS_CAN_REACH_IT}"),
        ({"serving__host": "::"}, f"serving.host=::: {OTHERS_CAN_REACH_IT}"),
        ({"serving__host": ""}, f"serving.host=: {OTHERS_CAN_REACH_IT}"),
        ({"serving__host": "node7"}, f"serving.host=node7: {OTHERS_CAN_REACH_IT}"),
    ],
)
def test_refused(model_file: str, values: dict[str, Any], message: str) -> None:
    config = GenerateConfig(gpt_model_file=model_file, server=True)
    validate_generate(config)
    assert refusal(changed(config, **values), validate_generate).startswith(message)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"port": 80}, "port=80"),
        ({"serving__host": "::1"}, "serving.host=::1"),
        ({"serving__max_waiting": 0}, "serving.max_waiting=0"),
    ],
)
def test_without_a_server(model_file: str, values: dict[str, Any], key: str) -> None:
    config = changed(GenerateConfig(gpt_model_file=model_file, prompts=["x"]), **values)
    assert refusal(config, validate_generate) == f"{key}: would be ignored: it goes with server=true"


def test_the_token(model_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = changed(GenerateConfig(gpt_model_file=model_file, server=True), serving__host="0.0.0.0")
    monkeypatch.setenv(TOKEN_VARIABLE, "0123456789abcdef")
    validate_generate(open_to_all)
    for token in ("0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n", "क" * 20):
        monkeypatch.setenv(TOKEN_VARIABLE, token)
        assert refusal(open_to_all, validate_generate).startswith(
            f"{TOKEN_VARIABLE}: must have at least 16 characters"
        )
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert OTHERS_CAN_REACH_IT in refusal(open_to_all, validate_generate)


def test_addresses_of_this_machine_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "")))


def test_both_spellings_live_together() -> None:
    """NeMo's server=true and port beside what only exists here."""
    config = compose("generate", ["gpt_model_file=x", "server=true", "port=5556", "serving.host=::1"])
    assert (config.server, config.port, config.serving.host) == (True, 5556, "::1")
    with pytest.raises(UserError, match=r"server\.port: there is no such key; did you mean port\?"):
        compose("generate", ["gpt_model_file=x", "server.port=5556"])
    with pytest.raises(UserError, match=r"serving\.token: there is no such key, and nothing to set"):
        compose("generate", ["gpt_model_file=x", "serving.token=5556"])
