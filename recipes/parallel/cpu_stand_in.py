"""Lets megatron-core run without CUDA: its calls to ``torch.cuda`` are redirected to the CPU.

megatron-core names the CUDA device in many places (``device="cuda"``, ``torch.cuda.current_device()``,
streams, the CUDA random generator, string comparisons with ``torch.cuda.FloatTensor``). :func:`install`
redirects exactly these, in the current process, so that the *same* megatron-core code runs tensor,
pipeline, sequence, expert and data parallelism and the distributed optimizer over gloo on a laptop.

Functions are replaced one by one rather than through a ``TorchFunctionMode``: a mode costs a Python call
for every torch operation of every training step, a replaced factory function only when it is called.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._device import _device_constructors

from recipes.parallel.host_memory import keep_freed_memory

CPU = torch.device("cpu")

# Factory functions through which megatron-core asks for CUDA memory.
_FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "tensor",
    "zeros",
    "zeros_like",
)

_installed = False


def install() -> None:
    """Redirects ``torch.cuda`` to the CPU in this process. A second call does nothing.

    Raises:
        RuntimeError: CUDA is present and must be used.
    """
    global _installed
    if torch.cuda.is_available():
        raise RuntimeError("the CPU stand-in for CUDA is refused on a machine that has CUDA")
    if _installed:
        return
    _redirect_device_queries()
    _redirect_factories()
    _redirect_tensor_methods()
    _redirect_random_state()
    keep_freed_memory()
    _installed = True
    _patch_megatron()


def is_installed() -> bool:
    """Whether :func:`install` has run in this process."""
    return _installed


class Stream:
    """A stream on which everything has already happened.

    A class, because transformers and torch use ``torch.cuda.Stream`` in annotations.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = CPU

    def synchronize(self) -> None:
        pass

    def wait_stream(self, _: Any) -> None:
        pass

    def wait_event(self, _: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event if event is not None else Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


class Event:
    """An event that has already occurred."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def wait(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def _do_nothing() -> Callable[..., None]:
    # A new object each time: torch._dynamo refuses a function that is registered under two names.
    return lambda *_, **__: None


def _redirect_device_queries() -> None:
    stream = Stream()
    cuda: Any = torch.cuda
    cuda.current_device = lambda: CPU
    cuda.set_device = _do_nothing()
    cuda.synchronize = _do_nothing()
    cuda.empty_cache = _do_nothing()
    cuda.Stream = Stream
    cuda.Event = Event
    cuda.current_stream = lambda *_, **__: stream
    cuda.default_stream = lambda *_, **__: stream
    cuda.stream = lambda _: contextlib.nullcontext()
    cuda.nvtx.range_push = _do_nothing()
    cuda.nvtx.range_pop = _do_nothing()
    cuda.FloatTensor = lambda data: torch.tensor(data, dtype=torch.float32)


def _is_cuda(device: Any) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _redirect_factories() -> None:
    def on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(factory)
        def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
            if kwargs:
                if _is_cuda(kwargs.get("device")):
                    kwargs["device"] = CPU
                kwargs.pop("pin_memory", None)
            return factory(*args, **kwargs)

        return wrapper

    # torch.device contexts act on a set of factories that torch builds at the first use: make it do so now,
    # from its own factories. Otherwise transformers' from_pretrained leaves rotary frequencies uninitialised.
    _device_constructors()
    for name in _FACTORIES:
        setattr(torch, name, on_cpu(getattr(torch, name)))


def _redirect_tensor_methods() -> None:
    tensor_to = torch.Tensor.to
    tensor_type = torch.Tensor.type

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _is_cuda(args[0]):
            args = (CPU, *args[1:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        return tensor_to(self, *args, **kwargs)

    def type_(self: torch.Tensor, dtype: Any = None, **kwargs: Any) -> Any:
        # megatron-core's optimizers compare the name of the type with "torch.cuda.FloatTensor".
        if dtype is None:
            name = tensor_type(self)
            # Under a TorchFunctionMode (torch.device as a context is one) torch calls this function again.
            return name if name.startswith("torch.cuda.") else name.replace("torch.", "torch.cuda.", 1)
        return tensor_type(self, dtype, **kwargs)

    tensor: Any = torch.Tensor
    tensor.to = to
    tensor.type = type_
    tensor.cuda = lambda self, *_, **__: self
    tensor.pin_memory = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]


def _redirect_random_state() -> None:
    cuda: Any = torch.cuda
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    cuda.manual_seed = lambda seed: torch.manual_seed(seed)
    cuda.random.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.random.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _patch_megatron() -> None:
    """Replaces megatron-core's own copies of CUDA-only functions."""
    with _without_compilation():
        import megatron.core.tensor_parallel.random as mcore_random
        import megatron.core.transformer.moe.token_dispatcher as token_dispatcher

    mcore_random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    mcore_random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    # The original returns early for tensors that are already on the CPU, even if numpy is requested.
    token_dispatcher.maybe_move_tensor_to_cpu = _numpy_if_requested


@contextlib.contextmanager
def _without_compilation() -> Iterator[None]:
    """Turns off torch.compile, in which megatron-core wraps small functions when it is imported.

    On the CPU each would run the C++ compiler for seconds at its first use, without any gain.
    """
    torch_: Any = torch
    compile_ = torch_.compile
    torch_.compile = lambda function=None, **_: function if function is not None else (lambda f: f)
    try:
        yield
    finally:
        torch_.compile = compile_


def _numpy_if_requested(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor
