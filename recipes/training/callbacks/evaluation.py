"""A small benchmark while training, on the ranks and with the weights that are in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer

from recipes.config.evaluation_tables import with_table
from recipes.config.schema import PretrainConfig
from recipes.console import say
from recipes.data.hub import setting
from recipes.data.samples.document_start import DocumentStart, document_start_id
from recipes.evaluation.tasks import load_tasks
from recipes.evaluation.work import Abandoned
from recipes.training.callbacks.metrics import Metrics
from recipes.training.callbacks.stop import StopControl
from recipes.training.first_rank import on_first_rank
from recipes.training.module import ParamGPT
from recipes.training.trained_text import TrainedText
from recipes.training.undisturbed import undisturbed

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

    from recipes.evaluation.shared_lm import SharedLM


class Evaluation(Callback):
    """Scores the model every n steps and after the last one; prints and records the scores on rank 0.

    It may take longer than the sender of a signal waits, so a signal or the end of trainer.max_time ends it:
    there are no scores of that step. Those of the last one are made up for by the same command.

    Args:
        scored_step: the last one of which the run has scores from before; -1: none.
    """

    def __init__(
        self,
        config: PretrainConfig,
        metrics: Metrics,
        document_start: DocumentStart,
        stop: StopControl,
        scored_step: int,
    ) -> None:
        self.stop, self.scored_step = stop, scored_step
        self.config, self.metrics, self.document_start = config.trainer.evaluation, metrics, document_start
        self.planned = with_table(self.config)
        self.loaded: TaskDict | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Loads the tasks on rank 0, before the model is built.

        Raises:
            UserError: on every rank, if they cannot be loaded.
        """
        if self.config.every_n_steps is None:
            return
        on_first_rank(trainer, self._load)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuses what the model could not answer, lest it end the run after hours.

        Raises:
            UserError: on every rank.
        """
        if self.config.every_n_steps is None:
            return
        from recipes.evaluation.shared_lm import ranks_in_training

        self.ranks = ranks_in_training()
        on_first_rank(trainer, lambda: self._check(pl_module))

    def _check(self, model: ParamGPT) -> None:
        from recipes.evaluation.run import set_fewshot

        assert self.loaded is not None
        set_fewshot(self.loaded, self.planned.num_fewshot or 0)
        for name, task in self.loaded["tasks"].items():
            if task.OUTPUT_TYPE == "generate_until":
                self._lm(model, lambda: False).check_generation(name, task.get_config("generation_kwargs"))

    def _load(self) -> None:
        planned = self.planned
        self.loaded = load_tasks(
            planned.tasks,
            minibench=Path(planned.minibench) if planned.minibench else None,
            mirror=Path(planned.mirror) if planned.mirror else None,
            task_path=planned.task_path,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step, every = trainer.global_step, self.config.every_n_steps
        if every is not None and (step % every == 0 or step == pl_module.total_steps):
            self._score(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Scores the last step if an earlier process was stopped after it."""
        due = self.config.every_n_steps is not None and trainer.global_step == pl_module.total_steps
        if due and self.scored_step != trainer.global_step:
            self._score(trainer, pl_module)

    def _score(self, trainer: Trainer, model: ParamGPT) -> None:
        if trainer.should_stop:  # Whoever stops the run is waiting for its checkpoint.
            return
        step = trainer.global_step
        self.metrics.check_all()
        with self.metrics.pause("evaluation"), undisturbed(model):
            try:
                scores = self._scores(trainer, model)
            except Abandoned:
                scores = None
        if scores is None:
            self.stop.stop_now(trainer)
            return
        self.scored_step = step
        if trainer.is_global_zero:
            tokens = model.timeline.tokens(step)
            record = {"step": step, "consumed_tokens": tokens}
            self.metrics.directory.append_metrics(
                record | {f"eval.{task}.{metric}": value for (task, metric), value in scores.items()}
            )
            shown: dict[str, list[str]] = {}
            for (task, metric), value in scores.items():
                shown.setdefault(task, [task]).append(f"{metric} {value:.4f}")
            say("eval   " + "  ".join(map(" ".join, shown.values())))

    def _scores(self, trainer: Trainer, model: ParamGPT) -> dict[tuple[str, str], float]:
        """(task, metric) -> score, on rank 0.

        Raises:
            Abandoned: the run is to stop; on every rank.
        """
        lm = self._lm(model, partial(self.stop.is_due, trainer))
        if not trainer.is_global_zero:
            lm.help()
            return {}
        try:
            scores = self._asked(lm)
        except Abandoned:
            raise
        except Exception as failure:
            lm.release(failure)
            raise
        lm.release()
        return scores

    def _lm(self, model: ParamGPT, stop: Callable[[], bool]) -> SharedLM:
        from recipes.evaluation.shared_lm import SharedLM

        text = TrainedText(model, document_start_id(self.document_start, model.tokenizer))
        planned = self.planned
        return SharedLM(text, planned.max_batch_tokens, planned.max_logits_bytes, self.ranks, stop)

    def _asked(self, lm: SharedLM) -> dict[tuple[str, str], float]:
        import lm_eval.api.task
        from lm_eval import evaluator
        from tqdm import tqdm

        from recipes.evaluation.run import scores_of, set_fewshot
        from recipes.evaluation.tasks import quiet_lm_eval

        assert self.loaded is not None
        set_fewshot(self.loaded, self.planned.num_fewshot or 0)  # The same examples every time.
        no_bar = partial(tqdm, disable=True)  # One for each task, which would break the run's lines.
        with quiet_lm_eval(), setting(lm_eval.api.task, "tqdm", no_bar):
            report: Any = evaluator.evaluate(
                lm, self.loaded, limit=self.planned.limit, bootstrap_iters=0, log_samples=False
            )
        scores = {}
        for task in self.planned.tasks:
            of_task = report["results"].get(task, {})
            members = self.loaded["group_map"].get(task, []) if not scores_of(of_task) else []
            for name in [task, *members]:
                for metric, score in scores_of(report["results"].get(name, {})).items():
                    if math.isfinite(score.value):
                        scores[name, metric.removesuffix(",none")] = score.value
        return scores
