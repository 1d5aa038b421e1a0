"""A training step as two CUDA graphs: the device is told once what to do, and then only to do it again.

A small model's step is some hundred kernels of a few microseconds each, which the host cannot launch as fast
as they run. A graph is a recording of launches with their addresses, so everything that is recorded must lie
where it lay: a micro-batch is copied into fixed tensors, gradients and weights are megatron-core's buffers.
What Python does in between (autograd's hooks, counting steps) is not recorded.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist
from torch import Tensor

from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.config.world import World
from recipes.console import warn
from recipes.data.samples.loader import fields_of
from recipes.model.backend import have_transformer_engine
from recipes.optim.adamw import AdamW
from recipes.parallel.setup import device_of
from recipes.plan.recorded import records_steps
from recipes.training.engine import Engine
from recipes.training.step import Step, forward_backward

WARM_UP = 3
"""Times that a function runs as it is before it is recorded: kernels are compiled, workspaces made."""


def captures_steps(run: PretrainConfig) -> bool:
    """What trainer.cuda_graph means on this machine."""
    return torch.cuda.is_available() and not have_transformer_engine() and records_steps(run)


def warn_if_ignored(run: PretrainConfig) -> None:
    """Says so if trainer.cuda_graph=true has no effect on this machine."""
    if run.trainer.cuda_graph is True and not captures_steps(run):
        why = "Transformer Engine's modules" if torch.cuda.is_available() else "a CPU"
        warn(f"trainer.cuda_graph=true: has no effect with {why}")


@contextmanager
def stream_for_training(run: PretrainConfig, world: World) -> Iterator[None]:
    """Graphs cannot be recorded on the default stream, and autograd keeps to the stream DDP was built on."""
    if not captures_steps(run):
        yield
        return
    device_of(world)  # Streams belong to a device.
    before = torch.cuda.current_stream()
    torch.cuda.synchronize()
    torch.cuda.set_stream(torch.cuda.Stream())
    try:
        yield
    finally:
        torch.cuda.synchronize()
        torch.cuda.set_stream(before)


class CannotCaptureError(RuntimeError):
    """The device cannot do a function again without the host."""


class Recorded:
    """A function without arguments or result that runs as it is at first, and is then recorded and replayed.

    Args:
        function: of tensors that stay where they are.
        repeatable: nothing is lost if it stops in the middle and is run again.
    """

    def __init__(self, function: Callable[[], None], *, repeatable: bool) -> None:
        self.function, self.repeatable = function, repeatable
        self.graph: Recording | None = None
        self.runs = 0

    @property
    def is_due(self) -> bool:
        """Whether the next call replays, perhaps after recording."""
        return self.runs >= WARM_UP

    def __call__(self) -> None:
        """Does what the function does.

        Raises:
            CannotCaptureError: it has not done so, or not all of it if ``repeatable``.
        """
        if self.is_due:
            if self.graph is None:
                self.graph = record(self.function)
            self.graph.replay()
            return
        self.runs += 1
        if not (self.is_due and self.repeatable):
            self.function()
            return
        # A rehearsal: a recording that fails leaves the allocator in disorder, so better not begin one.
        try:
            with waits_are_errors():
                self.function()
        except RuntimeError as error:
            raise CannotCaptureError(_first_line(error)) from error


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """Makes torch raise a RuntimeError where it would let the host wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


_failed: list[torch.cuda.CUDAGraph] = []
"""Recordings that failed: the allocator may still ask them which streams are theirs."""


class Recording:
    """A graph, and the tensors that it may read."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self.graph = graph
        # Rotary tables, masks of windows and whatever else is kept for one shape would give way to
        # those of others, samples while training say, and the graph would read what took their place.
        self.kept = [each for each in gc.get_objects() if type(each) is Tensor and each.is_cuda]

    def replay(self) -> None:
        """Does what was recorded."""
        self.graph.replay()


def record(function: Callable[[], None]) -> Recording:
    """A graph of what the function would do; it does nothing yet.

    Raises:
        CannotCaptureError: it does something that a graph cannot hold.
    """
    graph = None
    try:
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        # Other threads (data loader, NCCL's) may do meanwhile what a recording must not.
        with torch.cuda.graph(graph, pool, torch.cuda.current_stream(), capture_error_mode="thread_local"):
            function()
    except Exception as error:
        if graph is not None:
            _failed.append(graph)
            # torch leaves this out when a recording has failed.
            with suppress(Exception):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        raise CannotCaptureError(_first_line(error)) from error
    return Recording(graph)


def _first_line(error: BaseException) -> str:
    """Of the first error: what the end of a failed recording says afterwards is always the same."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def step_of(engine: Engine, run: PretrainConfig, device: torch.device) -> Step:
    """A step of the run as it is done on this machine."""
    if captures_steps(run):
        return RecordedStep(engine, run, device)
    return Step(engine, timeline_of(run).segments[0].micro_batch_size)


class RecordedStep(Step):
    """The same as two graphs, one per micro-batch and one for all that follows the last of them.

    The second is recorded with AdamW and where there is a single rank: graphs have no collectives, and Muon
    has the schedule's numbers on the host. What cannot be recorded is launched kernel by kernel.
    """

    def __init__(self, engine: Engine, run: PretrainConfig, device: torch.device) -> None:
        first = timeline_of(run).segments[0]
        super().__init__(engine, first.micro_batch_size)
        self.fields, self.device = fields_of(run.data), device
        self.total = torch.zeros(2, dtype=torch.float64, device=device)
        self.norm = torch.zeros((), device=device)
        self.resize(first.micro_batch_size, first.seq_length)
        inner = [each.optimizer for each in engine.optimizer.chained_optimizers]
        self.adamw = [each for each in inner if isinstance(each, AdamW)]
        self.finish: Recorded | None = None
        if len(self.adamw) == len(inner) and dist.get_world_size() == 1:
            self.finish = Recorded(self._finish, repeatable=False)
        self.constants = self._constants()
        self.given_up = False

    def resize(self, micro_batch_size: int, seq_length: int) -> None:
        """As :class:`Step`'s: a graph is of one size, and of the rotary tables that there were."""
        super().resize(micro_batch_size, seq_length)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # Lest memory of the graph before be given back too early.
        self.inputs = {
            field: torch.zeros(micro_batch_size, seq_length, dtype=dtype, device=self.device)
            for field, dtype in self.fields.items()
        }
        self.micro_batch = Recorded(self._micro_batch, repeatable=True)

    def gradients(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """As :class:`Step`'s, except that they are not yet reduced and divided: :meth:`update` does that."""
        if not self.given_up:
            try:
                return self._gradients(batch)
            except CannotCaptureError as error:
                warn(f"trainer.cuda_graph: a micro-batch is launched kernel by kernel: {error}")
                self.given_up = True
                for parameter in self.engine.ddp.module.parameters():
                    parameter.grad = None  # Left by hooks that have not run.
        return super().gradients(batch)

    def _gradients(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        self.engine.zero_gradients()
        self.total.zero_()
        for start in range(0, len(batch["tokens"]), self.micro_batch_size):
            for name, values in self.inputs.items():
                values.copy_(batch[name][start : start + self.micro_batch_size], non_blocking=True)
            self.micro_batch()
        return [{"loss": self.total}]

    def _micro_batch(self) -> None:
        """What the first graph holds: forward and backward of the inputs, into main gradients and total."""
        with self.engine.not_finalized():
            (output,) = forward_backward(
                self.engine.ddp, self.inputs, micro_batch_size=self.micro_batch_size, forward_only=False
            )
        self.total += output["loss"]

    def update(self) -> Tensor:
        """As :class:`Step`'s."""
        if self.given_up:
            return super().update()
        self.engine.prepare_update()
        if self.finish is None:
            self._finish()
        else:
            self._recorded_finish(self.finish)
        return self.norm

    def _recorded_finish(self, finish: Recorded) -> None:
        if self._constants() != self.constants:  # A schedule of weight decay, say.
            self.constants, finish.graph = self._constants(), None
        if finish.is_due:
            for optimizer in self.adamw:
                optimizer.prepare()
        try:
            finish()
        except CannotCaptureError as error:
            warn(f"trainer.cuda_graph: the update is launched kernel by kernel: {error}")
            self.finish = None
            for optimizer in self.adamw:
                optimizer.take_back()
            self._finish()

    def _finish(self) -> None:
        """What the second graph holds: from the sums of gradients to the new weights."""
        self.engine.finalize(self.total[1].int())
        self.norm.copy_(self.engine.update())

    def _constants(self) -> list[object]:
        return [constant for optimizer in self.adamw for constant in optimizer.constants()]
