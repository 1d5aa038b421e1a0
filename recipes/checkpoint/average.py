"""The mean of several models' weights, tensor by tensor, without ever holding all of one in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.checkpoint.convert import Conversion, Progress, to_torch_dist
from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.recognise import check_new
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.errors import UserError


@dataclass(frozen=True)
class MeanTensor(LazyTensor):
    """The mean of tensors of one shape, taken in fp64 as it is read; it has no parts of its own."""

    of: tuple[LazyTensor, ...] = ()

    def read_into(self, out: Tensor, verify: bool = False) -> None:
        total = torch.zeros(self.shape, dtype=torch.float64, device="cpu")
        for tensor in self.of:
            total += tensor.load(verify)
        out.copy_(total.div_(len(self.of)))

    def box(self, start: Sequence[int], size: Sequence[int]) -> MeanTensor:
        boxes = tuple(tensor.box(start, size) for tensor in self.of)
        return dataclasses.replace(self, shape=tuple(size), of=boxes)


def average(
    paths: Sequence[Path],
    target: Path,
    dtype: str = "keep",
    weights: str = "trained",
    progress: Progress | None = None,
) -> None:
    """Writes the mean of the models at ``paths`` to ``target``, a new checkpoint of weights.

    Args:
        paths: at least two models that :func:`~recipes.checkpoint.open.open_stored_model` reads.
        target: a new directory.
        dtype: keep (the first model's), bf16 or fp32.
        weights: ema: of training checkpoints, the averages that they hold.
        progress: told what is read.

    Raises:
        UserError: one cannot be read, or is another model than the first; the target exists.
    """
    check_new(target)
    with ExitStack() as stack:
        models = [stack.enter_context(open_stored_model(path, weights=weights)) for path in paths]
        first = models[0]
        for other in models[1:]:
            _refuse_another(first, other)
        first.tensors = {
            name: MeanTensor(
                name, tensor.shape, tensor.dtype, (), of=tuple(model.tensors[name] for model in models)
            )
            for name, tensor in first.tensors.items()
        }
        to_torch_dist(Conversion(first, dtype, progress), target, mean_of=[str(path) for path in paths])


def _refuse_another(first: StoredModel, other: StoredModel) -> None:
    for field in dataclasses.fields(first.model):
        ours, theirs = getattr(first.model, field.name), getattr(other.model, field.name)
        if ours != theirs:
            raise UserError(
                f"{other.path}: is another model than {first.path}: {field.name} {theirs} instead of {ours}"
            )
    if _tokenizers_differ(first, other):
        raise UserError(f"{other.path}: is another model than {first.path}: its tokenizer is another one")


def _tokenizers_differ(first: StoredModel, other: StoredModel) -> bool:
    """Not known of two libraries, nor where a tokenizer is not there or cannot be read."""
    if first.tokenizer.library != other.tokenizer.library:
        return False
    try:
        return first.text_tokenizer.sha256 != other.text_tokenizer.sha256
    except UserError:
        return False
