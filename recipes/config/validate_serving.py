"""Refuses impossible settings of a server before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import ipaddress
import os

from recipes.checks import not_negative, positive, refuse
from recipes.config.schema import GenerateConfig, InferenceConfig
from recipes.config.serving_schema import TOKEN_VARIABLE, ServingConfig
from recipes.errors import UserError

SHORTEST_TOKEN = 16
"""Characters; what is shorter can be guessed."""


def validate_serving(config: GenerateConfig) -> None:
    """Checks a job with ``server=true``, and that nothing is set which a server would not look at."""
    for key in ("prompts", "prompts_jsonl", "output_jsonl", "json", "stream", "interactive", "history_file"):
        if value := getattr(config, key):
            refuse(key, value, "would be ignored: with server=true every request brings its own prompts")
    for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
        if getattr(config, key) != 1:
            refuse(key, getattr(config, key), "the server is one process; leave it out")
    for field in dataclasses.fields(InferenceConfig):
        default, value = getattr(InferenceConfig(), field.name), getattr(config.inference, field.name)
        if value != default:
            key = f"inference.{field.name}"
            refuse(key, value, "would be ignored: with server=true every request brings its own options")
    if config.seed != GenerateConfig.seed:
        refuse("seed", config.seed, "would be ignored: with server=true every request brings its own seed")
    if not 0 <= config.port < 2**16:
        refuse("port", config.port, f"must lie between 0 and {2**16 - 1:,}")
    serving = config.serving
    for key in ("max_length", "max_completion_tokens"):
        if (limit := getattr(serving, key)) is not None:
            positive(f"serving.{key}", limit)
    positive("serving.max_completions", serving.max_completions)
    positive("serving.max_body_bytes", serving.max_body_bytes)
    not_negative("serving.max_waiting", serving.max_waiting)
    not_negative("serving.shutdown_timeout", serving.shutdown_timeout)
    if serving.model_name is not None and not serving.model_name.strip():
        refuse("serving.model_name", repr(serving.model_name), "is empty; null: the name of the model's file")
    _validate_token(serving)


def validate_no_serving(config: GenerateConfig) -> None:
    """Refuses what only a server would look at."""
    if config.port != GenerateConfig.port:
        refuse("port", config.port, "would be ignored: it goes with server=true")
    for field in dataclasses.fields(ServingConfig):
        if (value := getattr(config.serving, field.name)) != field.default:
            refuse(f"serving.{field.name}", value, "would be ignored: it goes with server=true")


def is_loopback(host: str) -> bool:
    """Whether only this machine's own programs can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_token() -> str | None:
    """What clients have to send; None: nothing."""
    return os.environ.get(TOKEN_VARIABLE) or None


def _validate_token(serving: ServingConfig) -> None:
    token = server_token()
    if token is None:
        if not is_loopback(serving.host):
            refuse(
                "serving.host",
                serving.host,
                f"others can reach it: set a token in the environment variable {TOKEN_VARIABLE}, for example "
                "with $(openssl rand -hex 32)",
            )
    elif len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN_VARIABLE}: must have at least {SHORTEST_TOKEN} characters, all of them printable ASCII "
            "and none a space"
        )
