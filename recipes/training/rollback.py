"""After a loss spike: back to the last checkpoint before it, without the samples that it came with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.save.manifest import finished_checkpoints, set_aside_newer, verify
from recipes.checkpoint.save.retention import forget_missing_best
from recipes.console import warn
from recipes.errors import UserError
from recipes.run_directory import read_rollbacks, write_rollbacks
from recipes.training.lacking import validated
from recipes.training.local_start import new_id
from recipes.training.loss_spikes import Spike, samples_left_out
from recipes.training.module import ParamGPT
from recipes.training.skipped_steps import GuardError, samples_of
from recipes.training.start import Start


class LossSpikeError(GuardError):
    """A step's loss is a spike. Losses are global, so every rank raises it."""

    def __init__(self, spike: Spike) -> None:
        super().__init__(
            f"step {spike.step:,}: the loss {spike.loss:.4f} is {spike.zscore:.1f} standard deviations above "
            f"the mean of the steps before it, {spike.mean:.4f}"
        )
        self.spike = spike


def go_back(model: ParamGPT, spike: Spike) -> Start:
    """Decides on rank 0, for all, where the run goes on; its directory is then as if it had stopped there.

    A process that is killed in the middle of it leaves the checkpoint and no record, and meets the same spike
    again.

    Raises:
        GuardError: there is no checkpoint to go back to, or it was one spike too many. Every rank raises it.
    """
    answer: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            answer = [_go_back(model, spike)]
        except (GuardError, UserError) as error:
            answer = [error]
    dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if isinstance(answer[0], Exception):
        raise answer[0]
    start: Start = answer[0]
    return start


def _go_back(model: ParamGPT, spike: Spike) -> Start:
    directory, guards = model.run_directory, model.run.trainer.guards
    rollbacks = read_rollbacks(directory.rollbacks_file)
    what = str(LossSpikeError(spike))
    if len(rollbacks) >= guards.max_rollbacks:
        raise GuardError(
            f"{what}, after {len(rollbacks):,} rollbacks (trainer.guards.max_rollbacks). Lower optim.lr, or "
            f"look at the samples in {directory.rollbacks_file}"
        )
    first = max(1, spike.step + 1 - guards.loss_spike_skip_steps)
    checkpoint = _last_before(directory.checkpoints, first)
    if checkpoint is None:
        raise GuardError(f"{what}, and there is no checkpoint before step {first:,} to go back to")
    found = [samples_of(model, step) for step in range(first, spike.step + 1)]
    samples = [found[0]["samples"][0], found[-1]["samples"][1]]
    step = int(checkpoint.name.removeprefix("step_"))
    # Not "loss", which is what the line of a logged step has.
    record = {f"spike_{key}": value for key, value in asdict(spike).items()}
    record |= {"step": step, "samples": samples}
    local = model.run.trainer.checkpoint.local.directory is not None
    local_id = new_id(directory) if local else ""
    # Checkpoints first: without the record they only mean to train these steps once more.
    set_aside_newer(directory.checkpoints, checkpoint, "spiked")
    forget_missing_best(directory.checkpoints)
    rollbacks.append(record)
    write_rollbacks(directory.rollbacks_file, rollbacks)
    documents = _documents(found)
    directory.append_metrics({"event": "rolled_back", **record, "documents": documents})
    warn(
        f"{what}; back to {checkpoint.name}, without samples {samples[0]:,} to {samples[1]:,}, whose "
        f"documents are in metrics.jsonl (rollback {len(rollbacks)} of at most {guards.max_rollbacks})"
    )
    return Start(
        checkpoint,
        step,
        int(load_plain(checkpoint / "common.pt")["recipes"]["consumed_tokens"]),
        skip=samples_left_out(model.run.data.skip, rollbacks),
        validated=validated(directory, step),
        local_id=local_id,
        shared_step=step,
    )


def _last_before(checkpoints: Path, step: int) -> Path | None:
    """The newest whole checkpoint of a step before this one."""
    for path in reversed(finished_checkpoints(checkpoints)):
        if int(path.name.removeprefix("step_")) < step:
            try:
                verify(path)
                return path
            except UserError as error:
                warn(f"{path.name} is passed over: {error}")
    return None


def _documents(found: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Those of several steps' samples, by source."""
    sources = sorted({source for each in found for source in each["documents"]})
    return {
        source: sorted({number for each in found for number in each["documents"].get(source, [])})
        for source in sources
    }
