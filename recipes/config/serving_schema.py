"""What a server (``python -m recipes.generate gpt_model_file=model.nemo server=true``) can be set to."""

from __future__ import annotations

from dataclasses import dataclass

TOKEN_VARIABLE = "RECIPES_SERVER_TOKEN"
"""Not a setting: a command line can be read by everybody on the machine."""


@dataclass(frozen=True)
class ServingConfig:
    """How the server listens, and what a request may ask for."""

    host: str = "127.0.0.1"
    """Address to listen on. Any that other machines can reach needs a token, which clients then have to send:
    set the environment variable RECIPES_SERVER_TOKEN."""
    model_name: str | None = None
    """What requests call the model; null: the name of its file."""
    max_waiting: int = 256
    """Completions that wait for one of the batch_size places; what is beyond that is answered with 429."""
    max_length: int | None = None
    """Tokens of a prompt and its completion together; memory for so many is reserved per place. null: as many
    as the model reads."""
    max_completion_tokens: int | None = None
    """Most new tokens of a completion; null: as many as max_length leaves."""
    max_completions: int = 128
    """Completions of one request: its prompts times n."""
    max_body_bytes: int = 2**20
    """Bytes of a request."""
    shutdown_timeout: float = 30.0
    """Seconds that running requests have to finish after SIGTERM or Ctrl-C; then they are cancelled."""
