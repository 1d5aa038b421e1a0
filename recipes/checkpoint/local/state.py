"""A rank's own part of a run's state, as it lies in memory: only the same layout can use it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from recipes.checkpoint.formats.safety import load_plain, reason
from recipes.checkpoint.local.files import COMMON, TENSORS
from recipes.checkpoint.save.host import HostCopies
from recipes.checkpoint.save.ranks import everywhere
from recipes.errors import UserError
from recipes.optim.ema import Ema

COUNTS = ("step",)
"""What optimizers count in their groups. Everything else in these is configured, or set by the schedule."""


@torch.no_grad()
def rank_state(gpt: GPTModel, optimizer: MegatronOptimizer, ema: Ema | None = None) -> dict[str, Any]:
    """Copies of this rank's weights, their average and optimizer state, in host memory.

    Weights that an optimizer updates in place are stored once, with the model.
    """
    copies = HostCopies()
    state = _copied(gpt, optimizer, copies.copy)
    if ema is not None:
        state["averages"] = [copies.copy(average) for average in ema.averages]
    copies.wait()
    return state


def _copied(gpt: GPTModel, optimizer: MegatronOptimizer, copy: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    model = {name: value for name, value in gpt.state_dict().items() if isinstance(value, Tensor)}
    own = {tensor.untyped_storage().data_ptr() for tensor in model.values()}
    optimizers = []
    for part in _parts(optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        masters = [None if p.untyped_storage().data_ptr() in own else copy(p) for p in parameters]
        optimizers.append(
            {
                "masters": masters,
                "state": [_mapped(dict(part.state.get(p, {})), copy) for p in parameters],
                "counts": [
                    {key: group[key] for key in COUNTS if key in group} for group in part.param_groups
                ],
            }
        )
    return {
        "model": {name: copy(tensor) for name, tensor in model.items()},
        "optimizers": optimizers,
        "scalers": [_mapped(scaler.state_dict(), copy) for scaler in _scalers(optimizer)],
        "num_steps": getattr(optimizer, "num_steps", None),
    }


@torch.no_grad()
def load_rank_state(
    state: dict[str, Any], gpt: GPTModel, optimizer: MegatronOptimizer, ema: Ema | None = None
) -> None:
    """Puts what :func:`rank_state` has copied into place.

    Raises:
        UserError: this rank holds other tensors.
    """
    present = {name: value for name, value in gpt.state_dict().items() if isinstance(value, Tensor)}
    _fill(state["model"], present)
    parts = _parts(optimizer)
    if len(parts) != len(state["optimizers"]):
        raise UserError(f"it has {len(state['optimizers'])} optimizers, the run has {len(parts)}")
    for part, saved in zip(parts, state["optimizers"], strict=True):
        parameters = [p for group in part.param_groups for p in group["params"]]
        masters = dict(enumerate(saved["masters"]))
        _fill(
            {str(i): master for i, master in masters.items() if master is not None},
            {str(i): p for i, p in enumerate(parameters) if masters.get(i) is not None},
        )
        if len(parameters) != len(saved["state"]) or len(part.param_groups) != len(saved["counts"]):
            raise UserError("it has an optimizer of other parameters")
        for p, values in zip(parameters, saved["state"], strict=True):
            if values:
                part.state[p] = _mapped(values, partial(Tensor.to, device=p.device))
        for group, counts in zip(part.param_groups, saved["counts"], strict=True):
            group.update(counts)
    for scaler, values in zip(_scalers(optimizer), state["scalers"], strict=True):
        scaler.load_state_dict(values)
    if state["num_steps"] is not None:
        optimizer.num_steps = state["num_steps"]
    if ema is not None and "averages" in state:
        _fill(*({str(i): each for i, each in enumerate(of)} for of in (state["averages"], ema.averages)))
    elif ema is not None:
        ema.begin_again()


def load_local(
    directory: Path, gpt: GPTModel, optimizer: MegatronOptimizer, ema: Ema | None = None
) -> dict[str, Any]:
    """Reads this rank's part of a local checkpoint into place; returns the plain data.

    Raises:
        UserError: a rank holds other tensors. Every rank raises it.
    """
    failure: str | None = None
    plain: dict[str, Any] = {}
    try:
        plain = load_plain(directory / COMMON)
        load_rank_state(torch.load(directory / TENSORS, weights_only=True), gpt, optimizer, ema)
    except (UserError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        failure = f"{directory}: does not fit the configured model: {reason(error)}"
    failures = [each for each in everywhere(failure) if each is not None]
    if failures:
        raise UserError(failures[0])
    return plain


def _parts(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """torch's optimizers inside megatron-core's; a rank that owns nothing of a kind has none of it."""
    inner = [each.optimizer for each in optimizer.chained_optimizers]
    return [each for each in inner if each is not None]


def _scalers(optimizer: MegatronOptimizer) -> list[Any]:
    """Of fp16's losses."""
    found = [getattr(each, "grad_scaler", None) for each in optimizer.chained_optimizers]
    return [each for each in found if each is not None]


def _mapped(value: Any, copy: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in its lists and dictionaries copied."""
    if isinstance(value, Tensor):
        return copy(value)
    if isinstance(value, dict):
        return {key: _mapped(each, copy) for key, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, copy) for each in value]
    return value


def _fill(saved: dict[str, Tensor], present: dict[str, Tensor]) -> None:
    for name in sorted(saved.keys() | present.keys()):
        if name not in saved or name not in present or saved[name].shape != present[name].shape:
            raise UserError(f"{name} is not the tensor that this rank holds")
        present[name].copy_(saved[name])
