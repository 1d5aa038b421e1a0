"""TensorBoard and Weights & Biases as readers of metrics.jsonl: its figures, and no others, at its steps.

A record of a step that is trained again, after a resume or a rollback, replaces the earlier one in
metrics.jsonl (recipes/run_directory.py). TensorBoard is told to forget what came after the step that a run
goes on from. Weights & Biases cannot: there the first value stays, and what a killed run had not sent in its
last second is missing.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from recipes.config.run_directory import resolved_yaml
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError
from recipes.run_directory import RunDirectory, read_metrics_log


def figures_of(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers in a record, by group and name: valid.hi.loss is valid/hi.loss, and loss is train/loss."""
    figures: dict[str, Any] = {}
    if "event" in record:
        return figures
    for key, value in record.items():
        group, _, name = key.partition(".")
        if not name and "loss" not in record:
            continue  # Only says when a validation or a benchmark was.
        tag = f"{group}/{name}" if name else f"train/{key}"
        if isinstance(value, list):
            figures |= {f"{tag}.{place}": each for place, each in enumerate(value)}
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            figures[tag] = value
    return figures


class Sent:
    """The last step of each figure that a logger has."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def read(self, directory: RunDirectory) -> None:
        """Adds those of earlier processes."""
        for record in read_metrics_log(directory.metrics_file).appended:
            self.new(record)

    def new(self, record: dict[str, Any]) -> dict[str, Any]:
        """The figures in a record that are later than all before; a resumed run may validate a step again."""
        step = record["step"]
        figures = figures_of(record)
        if record.get("event") == "sample":
            figures[f"samples/{' '.join(record['prompt'].split())}"] = record["prompt"] + record["completion"]
        new = {tag: value for tag, value in figures.items() if step > self.steps.get(tag, -1)}
        self.steps |= dict.fromkeys(new, step)
        return new

    def forget_from(self, step: int) -> None:
        """That step and what comes after it."""
        self.steps = {tag: min(last, step - 1) for tag, last in self.steps.items()}


class TensorBoardFeed:
    """Event files in ``<run directory>/tensorboard``.

    Args:
        resumed_from: step of the checkpoint that the run goes on from; None: it starts.
        about: of this process's code and data.
    """

    def __init__(
        self,
        config: PretrainConfig,
        directory: RunDirectory,
        resumed_from: int | None,
        about: dict[str, Any],
    ) -> None:
        self.place = str(directory.path / "tensorboard")
        """Where people find the run."""
        first = 0 if resumed_from is None else resumed_from + 1
        self.logger = TensorBoardLogger(
            directory.path, name="", version="tensorboard", default_hp_metric=False, purge_step=first
        )
        self.last_step = first - 1
        self.sent = Sent()
        if resumed_from is not None:
            self.sent.read(directory)
            self.sent.forget_from(first)
        # Lightning would keep that of the run's first process.
        (directory.path / "tensorboard" / TensorBoardLogger.NAME_HPARAMS_FILE).unlink(missing_ok=True)
        self.logger.log_hyperparams(yaml.safe_load(resolved_yaml(config)) | {"about": about})
        self._text("run/configuration", resolved_yaml(config), first)
        self._text("run/about", yaml.safe_dump(about, sort_keys=False), first)

    def pass_on(self, record: dict[str, Any]) -> None:
        """A record that metrics.jsonl has got."""
        step, event = record["step"], record.get("event")
        if step < self.last_step and event in (None, "resumed"):
            self._forget_from(step if event is None else step + 1)
        self.last_step = step
        for tag, value in self.sent.new(record).items():
            if isinstance(value, str):
                self._text(tag, value, step)
            else:
                self.logger.log_metrics({tag: value}, step)
        self.logger.experiment.flush()  # A run may be killed at any moment.

    def _forget_from(self, step: int) -> None:
        writer = self.logger.experiment
        writer.close()
        writer.purge_step = step  # In the file that is opened by the next figure.
        self.sent.forget_from(step)

    def _text(self, tag: str, text: str, step: int) -> None:
        # Indented, Markdown shows it as it is.
        self.logger.experiment.add_text(tag, "".join(f"    {line}\n" for line in text.split("\n")), step)

    def close(self, exit_code: int) -> None:
        """The run's end; ``exit_code``: 0 if there was no exception."""
        self.logger.experiment.close()


class WandbFeed:
    """A run of Weights & Biases, the same for all processes of a training run.

    Args:
        resumed_from, about: as of :class:`TensorBoardFeed`.

    Raises:
        UserError: there is no account or no network.
    """

    def __init__(
        self,
        config: PretrainConfig,
        directory: RunDirectory,
        resumed_from: int | None,
        about: dict[str, Any],
    ) -> None:
        import wandb

        id_file = directory.path / "logs" / "wandb_id"
        known = resumed_from is not None and _is_of(config.name, id_file)
        if not known:
            id_file.write_text(f"{secrets.token_hex(4)} {config.name}\n")
        self.sent = Sent()
        if known:
            self.sent.read(directory)
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            # A killed run loses what its process for sending has not written yet.
            x_transaction_log_flush_interval=1.0,
        )
        try:
            self.run = wandb.init(
                project=config.wandb.project,
                entity=config.wandb.entity,
                name=config.name,
                id=id_file.read_text().split()[0],
                dir=directory.path,
                mode="offline" if config.wandb.offline else None,
                resume="allow",
                settings=settings,
            )
        except wandb.errors.Error as error:
            offline = "wandb.offline=true keeps the figures in the run directory"
            raise UserError(f"logger=wandb: {error}; {offline}") from error
        self.place = str(Path(self.run.dir).parent) if self.run.offline else str(self.run.url)
        # As Lightning does with a run that it starts itself.
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self.logger = WandbLogger(experiment=self.run)
        self.logger.log_hyperparams(yaml.safe_load(resolved_yaml(config)) | {"about": about})

    def pass_on(self, record: dict[str, Any]) -> None:
        """As :meth:`TensorBoardFeed.pass_on`."""
        if figures := self.sent.new(record):
            self.logger.log_metrics(figures, record["step"])

    def close(self, exit_code: int) -> None:
        """As :meth:`TensorBoardFeed.close`."""
        self.run.finish(exit_code=exit_code)


def _is_of(name: str, id_file: Path) -> bool:
    """Whether the id is this run's: a copied run directory has that of the run that it was copied from, and
    would go on with its curves on the server. Earlier versions wrote no name.
    """
    if not id_file.exists():
        return False
    _, _, known = id_file.read_text().strip().partition(" ")
    return known in ("", name)


Feed = TensorBoardFeed | WandbFeed
FEEDS: dict[str, type[TensorBoardFeed] | type[WandbFeed]] = {
    "tensorboard": TensorBoardFeed,
    "wandb": WandbFeed,
}
