"""What ``/metrics`` shows, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from recipes.server.engine_thread import EngineThread

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self, engine: EngineThread) -> None:
        disable_created_metrics()  # Each doubles the lines.
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "recipes_requests", "Answered HTTP requests", ["path", "status"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "recipes_prompt_tokens", "Tokens of accepted prompts", registry=self.registry
        )
        self.generated_tokens = Counter(
            "recipes_generated_tokens", "Tokens that were generated", registry=self.registry
        )
        self.unfinished = Counter(
            "recipes_unfinished_requests",
            "Requests that ended early: the client left, or the server stopped",
            registry=self.registry,
        )
        self.first_token_s = Histogram(
            "recipes_time_to_first_token_seconds",
            "From accepting a request to its first token",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.request_s = Histogram(
            "recipes_request_duration_seconds",
            "From accepting a request to its last token",
            buckets=_SECONDS,
            registry=self.registry,
        )
        running = Gauge(
            "recipes_running_completions", "Completions that are being generated", registry=self.registry
        )
        running.set_function(lambda: engine.running)
        waiting = Gauge(
            "recipes_waiting_completions", "Completions that wait for a place", registry=self.registry
        )
        waiting.set_function(lambda: engine.waiting)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
