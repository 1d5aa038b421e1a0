"""The heavy part of a pretraining run, which loads Lightning, NeMo and megatron-core."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.counts import counted
from recipes.parallel import cpu_stand_in
from recipes.parallel.light_imports import LOGGERS, OF_METRICS, without

with without(*LOGGERS, *OF_METRICS):
    if not torch.cuda.is_available():  # Before megatron-core is imported, as it looks for CUDA on import.
        cpu_stand_in.install()

    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.plugins.precision import Precision
    from megatron.core import parallel_state

from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import OmegaConf

from recipes.checkpoint.nemo.classic_config import note_for_nemo, to_nemo_config
from recipes.checkpoint.nemo.nemo_file import new_tokenizer_name, save_nemo
from recipes.cli import DONE, STOPPED_BY_GUARD, STOPPED_BY_SIGNAL
from recipes.config.fp8 import refuse_fp8_on
from recipes.config.phases import model_in
from recipes.config.schema import PretrainConfig
from recipes.config.separate_documents import refuse_dropout_on_gpu
from recipes.config.timeline import timeline_of
from recipes.config.validate import parse_duration
from recipes.config.world import World
from recipes.console import duration, note, quiet_libraries, say
from recipes.data.samples.document_start import DocumentStart, document_start_of
from recipes.data.samples.inputs import chat_template_of, check_files
from recipes.data.samples.skip import Skip
from recipes.data.samples.source_files import open_source
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.tokenizer_files import library_of
from recipes.model.backend import describe_kernels
from recipes.parallel.setup import device_of, resolve_dtype
from recipes.report import write_report
from recipes.run_directory import RunDirectory, read_metrics
from recipes.training.callbacks.checkpoints import Checkpoints
from recipes.training.callbacks.evaluation import Evaluation
from recipes.training.callbacks.hang import Hang
from recipes.training.callbacks.local_checkpoints import LocalCheckpoints
from recipes.training.callbacks.loggers import Loggers
from recipes.training.callbacks.metrics import Metrics, known_peak_flops
from recipes.training.callbacks.replicas import Replicas
from recipes.training.callbacks.samples import Samples
from recipes.training.callbacks.stop import NOT_STOPPED, SIGNALLED, StopControl
from recipes.training.callbacks.stragglers import Stragglers
from recipes.training.callbacks.validation import FinalValidation, ValidationProgress
from recipes.training.cuda_graph import captures_steps, stream_for_training, warn_if_ignored
from recipes.training.deterministic import set_deterministic
from recipes.training.engine import compiles_layers
from recipes.training.faults import Fault
from recipes.training.fit_loop import set_loops
from recipes.training.lacking import BENCHMARK, NEMO
from recipes.training.local_start import layout_of, local_directory
from recipes.training.module import ParamGPT
from recipes.training.rollback import LossSpikeError, go_back
from recipes.training.skipped_steps import STEP_SKIPPED, GuardError
from recipes.training.start import Start
from recipes.training.start_up import StartUp
from recipes.training.strategy import MegatronStrategy

NEMO_PRECISIONS: dict[torch.dtype, str | int] = {
    torch.bfloat16: "bf16",
    torch.float16: 16,
    torch.float32: 32,
}
"""What classic NeMo's configuration calls them."""


class NemoConnector(SaveRestoreConnector):
    """Lets ``model.save_to(path)`` write the classic layout from every rank's part."""

    def __init__(self, tokenizer_file: Path, chat_template: str | None) -> None:
        super().__init__()
        self.tokenizer_file, self.chat_template = tokenizer_file, chat_template

    def save_to(self, model: ParamGPT, save_path: str) -> None:
        config: Any = OmegaConf.to_container(model.cfg, resolve=True)
        config["recipes"]["step"] = model.trainer.global_step
        save_nemo(Path(save_path), model.gpt, config, self.tokenizer_file, self.chat_template)


def fit(
    config: PretrainConfig,
    world: World,
    directory: RunDirectory,
    start: Start,
    steps: int,
    start_up: StartUp,
    faults: list[Fault],
) -> int:
    """Trains to ``steps`` from where ``start`` says; returns the exit code."""
    set_deterministic(config.trainer.deterministic)
    max_time = config.trainer.max_time
    stop = StopControl(parse_duration(max_time) if max_time else None, announce=world.rank == 0)
    stop.install()
    quiet_libraries()  # Again, as Lightning and NeMo set their own levels on import.
    device = device_of(world)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    refuse_fp8_on(str(device), capability, config)
    refuse_dropout_on_gpu(config, device.type == "cuda")
    if world.rank == 0:
        say(_machine(config, world))
        warn_if_ignored(config)
        _announce(config, directory, start)
    document_start = _document_start(config)
    model: ParamGPT | None = None
    started = time.monotonic()
    try:
        while True:
            trainer = _trainer(config, world, directory, start, steps, stop, document_start, start_up, model)
            if faults:
                _inject(faults, trainer, world, directory)
            if model is None:
                model = _model(config, directory, steps, trainer, document_start, start_up)
                model.init_from, model.skip = start.init_from, Skip(start.skip)
            try:
                with stream_for_training(config, world):
                    trainer.fit(model, ckpt_path=str(start.checkpoint) if start.checkpoint else None)
                break
            except LossSpikeError as error:
                spike = error.spike
            # Outside of the handler, which keeps the old trainer alive.
            left = start.local_id
            start, start_up = go_back(model, spike), StartUp()
            if left and world.local_rank == 0:  # Nobody will ask for them any more.
                local_directory(config, left).delete()
            model.begin_again(start.skip, start_up)
            if world.rank == 0:
                _announce(config, directory, start)
    except GuardError as error:
        # What guards look at is global, so every rank gets here.
        if world.rank == 0:
            note(f"stopped by a guard: {error}")
        return _leave(STOPPED_BY_GUARD)
    if stop.stopped_by != NOT_STOPPED:
        reason = "stopped by a signal" if stop.stopped_by == SIGNALLED else "time limit"
        if world.rank == 0:
            reached = f"step {trainer.global_step:,} of {steps:,}"
            say(f"{reason} at {reached}; the same command continues from there")
        return _leave(STOPPED_BY_SIGNAL)
    if config.save_nemo and (start.step < steps or NEMO in start.lacks):
        model.save_to(str(directory.nemo_file))
    if world.rank == 0:
        if trainer.global_step > 0:  # An untrained model has no curves.
            write_report(directory.path)
        took = duration(time.monotonic() - started)
        say(f"done   {_trained_in_words(directory, trainer.global_step)} in {took}; {directory.path}")
    return _leave(DONE)


def _trained_in_words(directory: RunDirectory, steps: int) -> str:
    """The run's steps, and how many of them changed nothing."""
    skipped = sum(each.get("event") in STEP_SKIPPED for each in read_metrics(directory.metrics_file))
    return counted(steps, "step") + (f", {skipped:,} of them skipped," if skipped else "")


def _guards(config: PretrainConfig, directory: RunDirectory, rank: int) -> list[Callback]:
    """Those of trainer.guards that are callbacks of their own."""
    guards = config.trainer.guards
    hang = [Hang(guards.hang_timeout_s, directory, rank)] if guards.hang_timeout_s is not None else []
    every = guards.compare_replicas_every_n_steps
    return [*hang, *([Replicas(every)] if every is not None else [])]


def _local_checkpoints(
    config: PretrainConfig, world: World, start: Start, shared: Checkpoints
) -> list[Callback]:
    if not start.local_id:
        return []
    directory = local_directory(config, start.local_id)
    local = config.trainer.checkpoint.local
    return [LocalCheckpoints(local, directory, world, layout_of(config, world), shared)]


def _inject(faults: list[Fault], trainer: Trainer, world: World, directory: RunDirectory) -> None:
    from recipes.training.callbacks.faults import Faults

    # Before the callbacks that are to notice.
    trainer.callbacks.insert(0, Faults(faults, world.rank, directory))  # type: ignore[attr-defined]


def _leave(code: int) -> int:
    # No rank leaves while another may still be saving.
    dist.barrier()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    return code


def _machine(config: PretrainConfig, world: World) -> str:
    """The device of each process, and what computes on it."""
    device = device_of(world)
    cuda = device.type == "cuda"
    name = (
        torch.cuda.get_device_name(device) if cuda else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    )
    dtype = resolve_dtype(config.trainer.precision)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
    kernels = describe_kernels(
        config.model,
        dtype,
        device,
        fp8_recipe=config.trainer.fp8_recipe if config.trainer.precision == "fp8" else None,
        compiled=compiles_layers(config),
        graphs=captures_steps(config),
        separate_documents=config.data.reset_attention_mask,
    )
    return f"device {name}, {precision}, {kernels}"


def _announce(config: PretrainConfig, directory: RunDirectory, start: Start) -> None:
    """Prints where the run starts, and records it in the metrics."""
    if start.checkpoint is not None:
        say(f"resume {start.checkpoint}, step {start.step:,}, {start.consumed_tokens:,} tokens")
        directory.append_metrics(
            {"event": "resumed", "step": start.step, "checkpoint": start.checkpoint.name}
        )
        if start.lacks:
            say(f"finish all {counted(start.step, 'step')} are trained; missing: {', '.join(start.lacks)}")
        return
    started: dict[str, Any] = {"event": "started", "step": 0}
    if start.init_from is not None:
        say(f"start  from {start.init_from}, {config.init_from_state}")
        started["from"] = str(start.init_from)
    elif not directory.metrics_file.exists():
        return
    # An earlier attempt that saved nothing has left records in the file: they no longer belong to any run.
    directory.append_metrics(started)


def _trainer(
    config: PretrainConfig,
    world: World,
    directory: RunDirectory,
    start: Start,
    steps: int,
    stop: StopControl,
    document_start: DocumentStart,
    start_up: StartUp,
    model: ParamGPT | None,
) -> Trainer:
    """``model``: another trainer in this process has built and trained it."""
    peak = known_peak_flops(torch.cuda.get_device_name, config.trainer.peak_tflops)
    stragglers = Stragglers(config.trainer.guards.warn_of_stragglers_from)
    metrics = Metrics(config, directory, steps, peak, start_up, stragglers)
    checkpoints = Checkpoints(config, metrics, directory.checkpoints, stop, shared_step=start.shared_step)
    valid_every = config.trainer.val_check_interval
    validates = bool(config.data.valid)
    validated_step = start.step if start.validated else -1
    trainer = Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=world.local_size,
        num_nodes=max(1, world.size // world.local_size),
        strategy=MegatronStrategy(world, config.parallel, config.seed, has_groups=model is not None),
        plugins=[Precision()],  # megatron-core handles precision.
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=(valid_every or steps + 1) if validates else None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        # Order matters: only steps that the metrics callback has found sound are saved.
        callbacks=[
            metrics,
            Loggers(config, directory, start.step if start.checkpoint is not None else None),
            *_guards(config, directory, world.rank),
            stop,
            FinalValidation(validated_step),
            ValidationProgress(),
            Samples(config, metrics, document_start),
            Evaluation(config, metrics, document_start, stop, -1 if BENCHMARK in start.lacks else start.step),
            checkpoints,
            *_local_checkpoints(config, world, start, checkpoints),
            stragglers,
        ],
    )
    trained = start.checkpoint is not None and start.step >= steps
    set_loops(trainer, validated_step=validated_step, trained=trained)
    return trainer


def _model(
    config: PretrainConfig,
    directory: RunDirectory,
    steps: int,
    trainer: Any,
    document_start: DocumentStart,
    start_up: StartUp,
) -> ParamGPT:
    assert config.tokenizer.model is not None
    tokenizer_file = Path(config.tokenizer.model)
    tokenizer = load_tokenizer(tokenizer_file)
    dtype = resolve_dtype(config.trainer.precision)
    last = timeline_of(config).at(max(0, steps - 1))
    nemo_config = to_nemo_config(
        model_in(config, last.phase),
        tokenizer_file=new_tokenizer_name(tokenizer_file),
        tokenizer_library=library_of(tokenizer_file),
        seq_length=last.seq_length,
        micro_batch_size=last.micro_batch_size,
        global_batch_size=last.global_batch_size,
        precision=NEMO_PRECISIONS[dtype],
        seed=config.seed,
        document_start=document_start,
        notes=note_for_nemo(document_start, tokenizer),
    )
    model = ParamGPT(OmegaConf.create(nemo_config), config, tokenizer, directory, steps, start_up, trainer)
    model._save_restore_connector = NemoConnector(tokenizer_file, _chat_template(config))
    return model


def _chat_template(config: PretrainConfig) -> str | None:
    return chat_template_of(check_files(config)) if config.data.conversations else None


def _document_start(config: PretrainConfig) -> DocumentStart:
    sources = [open_source(source.path) for source in config.data.train.values() if source.weight > 0]
    return document_start_of(
        (file for source in sources for file in source.files), separate=config.data.reset_attention_mask
    )
