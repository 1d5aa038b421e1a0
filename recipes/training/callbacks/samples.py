"""Completions during training: text that the model writes, under the layout that it is trained with."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from recipes.config.schema import PretrainConfig
from recipes.console import say
from recipes.data.samples.document_start import DocumentStart, document_start_id
from recipes.inference.complete import complete
from recipes.training.callbacks.metrics import Metrics
from recipes.training.module import ParamGPT
from recipes.training.trained_text import TrainedText
from recipes.training.undisturbed import undisturbed


class Samples(Callback):
    """Completes ``trainer.samples.prompts`` every n steps; prints and records the results on rank 0."""

    def __init__(self, config: PretrainConfig, metrics: Metrics, document_start: DocumentStart) -> None:
        self.config, self.metrics, self.document_start = config.trainer.samples, metrics, document_start
        self.seed = config.seed

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        model: ParamGPT = pl_module
        step, every = trainer.global_step, self.config.every_n_steps
        if every is None or step % every:
            return
        self.metrics.check_all()
        with self.metrics.pause("samples"):
            self._write_samples(trainer, model, step)

    def _write_samples(self, trainer: Trainer, model: ParamGPT, step: int) -> None:
        generator = TrainedText(model, document_start_id(self.document_start, model.tokenizer))
        prompts = list(self.config.prompts)
        # The seed depends on the step: a resumed run writes what an uninterrupted one would have written.
        with undisturbed(model):
            samples = list(
                complete(
                    generator, prompts, self.config.inference, batch_size=len(prompts), seed=self.seed + step
                )
            )
        if trainer.is_global_zero:
            for sample in samples:
                say(f"sample {sample.prompt}|{' '.join(sample.completion.split())}")
                record = {"event": "sample", "step": step}
                self.metrics.directory.append_metrics(
                    record | {"prompt": sample.prompt, "completion": sample.completion}
                )
