"""Lightning's loggers, fed with what metrics.jsonl gets."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from recipes.config.schema import PretrainConfig
from recipes.console import say, warn
from recipes.run_directory import RunDirectory
from recipes.training.first_rank import on_first_rank
from recipes.training.loggers import FEEDS, Feed
from recipes.training.module import ParamGPT


class Loggers(Callback):
    """Opens the loggers on rank 0. One that fails later is left out from then on, and training goes on.

    Args:
        resumed_from: step of the checkpoint that the run goes on from; None: it starts.
    """

    def __init__(self, config: PretrainConfig, directory: RunDirectory, resumed_from: int | None) -> None:
        self.config, self.directory, self.resumed_from = config, directory, resumed_from
        self.feeds: dict[str, Feed] = {}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """
        Raises:
            UserError: on every rank, if one cannot be opened.
        """
        if self.config.logger:
            on_first_rank(trainer, lambda: self._open(trainer, pl_module))

    def _open(self, trainer: Trainer, model: ParamGPT) -> None:
        for name in self.config.logger:
            feed = FEEDS[name](self.config, self.directory, self.resumed_from, model.about())
            self.feeds[name] = feed
            say(f"logger {name}: {feed.place}")
        trainer.loggers = [feed.logger for feed in self.feeds.values()]
        self.directory.followers.append(self._pass_on)

    def _pass_on(self, record: dict[str, Any]) -> None:
        for name, feed in list(self.feeds.items()):
            try:
                feed.pass_on(record)
            except Exception as error:  # Whatever it is, metrics.jsonl has the figures.
                del self.feeds[name]
                cause = error.__cause__ or error  # Lightning wraps all into one sort.
                reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
                warn(f"logger={name} gets no more figures, metrics.jsonl has them all: {reason}")

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._close(0)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close(1)

    def _close(self, exit_code: int) -> None:
        while self.feeds:
            self.feeds.popitem()[1].close(exit_code)
