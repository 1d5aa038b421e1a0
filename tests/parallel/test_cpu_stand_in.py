"""What the stand-in for CUDA answers, and that it steps aside where CUDA is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from recipes.parallel import cpu_stand_in
from tests.support.engine import process_groups


def test_refused_where_cuda_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="refused on a machine that has CUDA"):
        cpu_stand_in.install()


def test_refusal_leaves_torch_untouched() -> None:
    code = (
        "import torch; from recipes.parallel import cpu_stand_in as c\n"
        "torch.cuda.is_available = lambda: True\n"
        "parts = lambda: (torch.tensor, torch.Tensor.to, torch.cuda.Stream)\n"
        "before = parts()\n"
        "try: c.install()\n"
        "except RuntimeError: print(before == parts(), c.is_installed())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"


def test_second_install_does_nothing() -> None:
    assert cpu_stand_in.is_installed()
    watched = (
        torch.tensor,
        torch.zeros,
        torch.Tensor.to,
        torch.Tensor.type,
        torch.cuda.Stream,
        torch.nn.Module.cuda,
    )
    cpu_stand_in.install()
    assert watched == (
        torch.tensor, torch.zeros, torch.Tensor.to, torch.Tensor.type, torch.cuda.Stream, torch.nn.Module.cuda
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float32, "torch.cuda.FloatTensor"),
        (torch.float16, "torch.cuda.HalfTensor"),
        (torch.bfloat16, "torch.cuda.BFloat16Tensor"),
        (torch.int64, "torch.cuda.LongTensor"),
    ],
)
def test_type_names(dtype: torch.dtype, name: str) -> None:
    """megatron-core's optimizers tell parameters apart by these strings."""
    tensor = torch.zeros(2, dtype=dtype)
    assert tensor.type() == name
    assert torch.nn.Parameter(tensor, requires_grad=False).type() == name
    with torch.device("cpu"):
        assert tensor.type() == name
    assert tensor.type(torch.float64).dtype == torch.float64


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 3)])
def test_factories_land_on_the_cpu(device: str | torch.device) -> None:
    like = torch.ones(2)
    tensors = [
        torch.arange(3, device=device),
        torch.as_tensor([1.0], device=device),
        torch.empty(2, device=device),
        torch.empty_like(like, device=device),
        torch.eye(2, device=device),
        torch.full((2,), 3.0, device=device),
        torch.full_like(like, 3.0, device=device),
        torch.linspace(0, 1, 3, device=device),
        torch.ones(2, device=device),
        torch.ones_like(like, device=device),
        torch.rand(2, device=device),
        torch.rand_like(like, device=device),
        torch.randint(3, (2,), device=device),
        torch.randn(2, device=device),
        torch.randn_like(like, device=device),
        torch.tensor([1, 2], device=device),
        torch.zeros(2, device=device, pin_memory=True),
        torch.zeros_like(like, device=device),
        like.to(device),
        like.to(device=device, dtype=torch.float64),
        like.cuda(),
        like.pin_memory(),
    ]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert torch.equal(torch.arange(3, device=device), torch.tensor([0, 1, 2]))
    assert torch.nn.Linear(2, 2).cuda().weight.device.type == "cpu"
    assert torch.nn.Linear(2, 2).to(device).weight.device.type == "cpu"


def test_random_state_is_the_cpus() -> None:
    state = torch.cuda.get_rng_state()
    first = torch.rand(4, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(4), first)
    torch.cuda.manual_seed(3)
    second = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), second)


def test_streams_and_events() -> None:
    assert isinstance(torch.cuda.Stream, type)  # transformers has it in annotations.
    stream = torch.cuda.current_stream()
    with torch.cuda.stream(stream), stream:
        event = stream.record_event()
    event.wait()
    stream.wait_event(event)
    assert stream.query() and event.query()
    assert torch.cuda.current_device() == torch.device("cpu")
    torch.cuda.synchronize()


def test_random_regions_differ_and_come_back() -> None:
    """megatron-core's tracker: the tensor-parallel region has a random state of its own."""
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    with process_groups():
        state = torch.get_rng_state()
        with get_cuda_rng_tracker().fork():
            inside = torch.rand(4)
        assert torch.equal(torch.get_rng_state(), state)
        with get_cuda_rng_tracker().fork():
            again = torch.rand(4)
        assert not torch.equal(inside, again)
        assert not torch.equal(torch.rand(4), inside)


def test_device_contexts_still_act() -> None:
    """transformers builds models on the meta device before it loads their weights."""
    with torch.device("meta"):
        made = (torch.empty(2), torch.arange(3), torch.full((2,), 1.0), torch.nn.Linear(2, 2).weight)
    assert {tensor.device.type for tensor in made} == {"meta"}
