"""Converts one stored model to another form, tensor by tensor, without ever holding all of it in memory."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml
from torch import Tensor

from recipes.checkpoint.formats.archive import LONGEST_NAME, ArchiveWriter, fitting_name
from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.recognise import check_new
from recipes.checkpoint.formats.torch_dist_writer import (
    METADATA_JSON,
    SHARD_NAME,
    TorchDistWriter,
    common_state,
    extra_state_keys,
)
from recipes.checkpoint.nemo.classic_config import (
    carried_options,
    is_classic,
    note_for_nemo,
    sentencepiece_legacy,
    to_nemo_config,
)
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.save.manifest import write_manifest
from recipes.checkpoint.stored.description import description_of
from recipes.checkpoint.stored.keys import key_of
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.checkpoint.stored.stored_tokenizer import BESIDE
from recipes.console import shown, warn
from recipes.data.tokenizer.file_names import HUGGING_FACE
from recipes.data.tokenizer.tokenizer_files import TokenizerFiles
from recipes.errors import UserError
from recipes.families.family import tensor_table
from recipes.families.tensors import WORD_EMBEDDINGS
from recipes.files import atomic_write, partial_directory

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in total."""


@dataclass(frozen=True)
class WatchedTensor(LazyTensor):
    """Records its name when numbers that are not finite are read from it."""

    not_finite: set[str] = field(default_factory=set)

    def load(self, verify: bool = False) -> Tensor:
        numbers = super().load(verify)
        if numbers.is_floating_point() and numbers.numel():
            # For 64 MB, minimum and maximum take 4 ms; isfinite of every number takes 100 to 200.
            low, high = torch.aminmax(numbers)
            if not (low.isfinite() and high.isfinite()):
                self.not_finite.add(self.name)
        return numbers


@dataclass
class Conversion:
    """A conversion under way: what every writer needs."""

    source: StoredModel
    dtype: str
    progress: Progress | None
    layout: str | None = None
    done: int = 0

    def dtype_of(self, name: str, stored: torch.dtype) -> torch.dtype:
        """The type in which a tensor is written."""
        wanted = DTYPES.get(self.dtype, stored)
        narrower = wanted.itemsize < stored.itemsize
        return stored if not stored.is_floating_point or (narrower and name in self.kept_wide) else wanted

    def tell(self, bytes_read: int) -> None:
        """Counts bytes that were read, and reports them."""
        self.done += bytes_read
        if self.progress is not None:
            self.progress(self.done, self.total)

    @cached_property
    def kept_wide(self) -> set[str]:
        """Tensors that are never stored in fewer bits than they came with."""
        return {spec.name for spec in tensor_table(self.source.model) if spec.wide}

    @cached_property
    def total(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.source.tensors.values())

    @property
    def precision(self) -> str | int:
        """The type of most weights, in the words of classic NeMo's configuration."""
        table = self.source.tensors[WORD_EMBEDDINGS]
        return "bf16" if self.dtype_of(table.name, table.dtype) == torch.bfloat16 else 32


def convert(
    path: Path,
    target: Path,
    to: str,
    dtype: str = "keep",
    progress: Progress | None = None,
    layout: str | None = None,
    weights: str = "trained",
) -> Path:
    """Writes the model at ``path`` to ``target``, which must not exist and appears only once complete.

    Returns what was read: of a run, the checkpoint, which need not be the newest any more.

    Args:
        path: anything that :func:`~recipes.checkpoint.open.open_stored_model` reads.
        target: a new file (nemo) or a new directory.
        to: nemo, hf, nemo2 or torch_dist.
        dtype: keep, bf16 or fp32; routers are not narrowed.
        progress: told what is read.
        layout: of a Hugging Face directory, see :func:`recipes.families.family.layout_of`.
        weights: ema: the average in a training checkpoint instead of its weights.

    Numbers that are not finite are written as they are, with a warning.

    Raises:
        UserError: the source cannot be read or does not hold its model's tensors, the target exists or has no
            form for this model.
    """
    check_new(target)
    with open_stored_model(path, weights=weights) as source:
        _ = source.model  # Compares its description with the tensors before anything is written.
        not_finite: set[str] = set()
        source.tensors = {
            name: WatchedTensor(name, tensor.shape, tensor.dtype, tensor.parts, tensor.copies, not_finite)
            for name, tensor in source.tensors.items()
        }
        WRITERS[to](Conversion(source, dtype, progress, layout), target)
        for name in source.left_behind:
            warn(f"{path}: {name} has no place in other forms and stays behind")
    if not_finite:
        more = f" and {len(not_finite) - 1} more tensors" if len(not_finite) > 1 else ""
        warn(
            f"{min(not_finite)}{more} of {path} held numbers that are not finite, and {target} does now "
            "(tools.inspect --check counts them)"
        )
    return source.path


def _write_tensors(conversion: Conversion, stream: BinaryIO, prefix: str) -> TorchDistWriter:
    """All weights in megatron-core's distributed form, keys beginning with ``prefix``."""
    source = conversion.source
    writer = TorchDistWriter(stream)
    for name, tensor in source.tensors.items():
        key, place, stack = key_of(name, source.model)
        writer.add_tensor(prefix + key, tensor, conversion.dtype_of(name, tensor.dtype), place, stack)
        conversion.tell(tensor.nbytes)
    if is_classic(source.model):
        for key in extra_state_keys(prefix, source.model.num_layers):
            writer.add_extra_state(key)
    return writer


def _nemo_config(conversion: Conversion, tokenizer_file: str, tokenizer_library: str) -> dict[str, Any]:
    """As training would have written it, with what the source's configuration tells of its training."""
    source = conversion.source
    classic = source.generation == "classic"
    return to_nemo_config(
        source.model,
        tokenizer_file=tokenizer_file,
        tokenizer_library=tokenizer_library,
        seq_length=_number(source, "encoder_seq_length", source.model.max_position_embeddings),
        micro_batch_size=_number(source, "micro_batch_size", 1),
        global_batch_size=_number(source, "global_batch_size", 1),
        precision=conversion.precision,
        seed=_number(source, "seed", 1234),
        document_start=source.document_start,
        notes=note_for_nemo(source.document_start, source.text_tokenizer),
        sentencepiece_legacy=classic and sentencepiece_legacy(source.config),
        carried=carried_options(source.config) if classic else {},
    )


def _number(source: StoredModel, key: str, default: int) -> int:
    """The value of ``key`` in model_config.yaml; ``default`` if there is no such key or no such file."""
    value = source.config.get(key) if source.generation == "classic" else None
    if value is None:
        return default
    if type(value) is not int:  # NeMo's own files never hold an interpolation here.
        raise UserError(
            f"{source.path}: model_config.yaml: {key}={shown(value)} is not an integer; write one"
        )
    return value or default


def _tokenizer(source: StoredModel) -> tuple[TokenizerFiles, str]:
    """The tokenizer's files, and its name without the uuid that an earlier .nemo gave it.

    Raises:
        UserError: there is none, or it has more pieces than the model has rows.
    """
    try:
        files = source.tokenizer.files()
        tokenizer = source.text_tokenizer
    except UserError as error:
        raise UserError(f"{source.path}: {error}; NeMo's forms carry a tokenizer, --to hf does not") from None
    source.check_rows_for(tokenizer)
    if files.library == HUGGING_FACE:
        return files, "tokenizer"
    return files, re.sub(r"^[0-9a-f]{32}_", "", Path(source.tokenizer.name).name)


def _kept(source: StoredModel) -> dict[str, bytes]:
    """The chat template and the like that came with a SentencePiece model, by where they are kept."""
    from recipes.checkpoint.huggingface.chat import kept_beside

    files = kept_beside(source.tokenizer, source.text_tokenizer.eos_id)
    return {f"{BESIDE}/{name}": content for name, content in files.items()}


def _to_nemo(conversion: Conversion, target: Path) -> None:
    """A classic .nemo, written straight into the archive without a directory in between."""
    tokenizer, name = _tokenizer(conversion.source)
    prefix = f"{uuid.uuid4().hex}_"
    name = prefix + fitting_name(name, LONGEST_NAME - len(prefix))
    kept = _kept(conversion.source)
    with atomic_write(target) as file:
        archive = ArchiveWriter(file)
        if tokenizer.library == HUGGING_FACE:
            archive.add_directory(name)
        for member, content in tokenizer.stored_as(name).items():
            archive.add(member, content)
        if kept:
            archive.add_directory(BESIDE)
        for member, content in kept.items():
            archive.add(member, content)
        config = yaml.safe_dump(_nemo_config(conversion, name, tokenizer.library), sort_keys=False)
        archive.add("model_config.yaml", config.encode())
        archive.add_directory("model_weights")
        with archive.open(f"model_weights/{SHARD_NAME}") as stream:
            writer = _write_tensors(conversion, stream, "model.")
        archive.add("model_weights/.metadata", writer.metadata())
        archive.add("model_weights/common.pt", common_state())
        archive.add("model_weights/metadata.json", METADATA_JSON.encode())
        archive.close()


def _write_weights(conversion: Conversion, directory: Path, prefix: str, common: bytes) -> None:
    with (directory / SHARD_NAME).open("wb") as stream:
        writer = _write_tensors(conversion, stream, prefix)
    (directory / ".metadata").write_bytes(writer.metadata())
    (directory / "common.pt").write_bytes(common)
    (directory / "metadata.json").write_text(METADATA_JSON, encoding="utf-8")


def to_torch_dist(conversion: Conversion, target: Path, **facts: Any) -> None:
    """Weights as a training checkpoint holds them; ``init_from`` starts a run from it.

    ``facts`` go into its manifest.
    """
    with partial_directory(target) as directory:
        state = {"global_step": 0, "recipes": {"model": description_of(conversion.source.model)}}
        _write_weights(conversion, directory, "", common_state(state))
        write_manifest(directory, step=0, **facts)


def _to_nemo2(conversion: Conversion, target: Path) -> None:
    """A NeMo 2 directory of the Llama line: weights, ``context/model.yaml`` and what NeMo 2 itself reads."""
    from recipes.checkpoint.nemo import nemo2_context
    from recipes.checkpoint.nemo.nemo2_config import to_nemo2_config

    source = conversion.source
    tokenizer, name = _tokenizer(source)
    config = to_nemo2_config(
        source.model,
        tokenizer_file=name,
        bf16=conversion.precision == "bf16",
        tokenizer_library=tokenizer.library,
    )
    kept = _kept(source)
    with partial_directory(target) as directory:
        weights = directory / "weights"
        weights.mkdir()
        _write_weights(conversion, weights, "module.", common_state())
        context = directory / "context"
        context.mkdir()
        for member, content in {**tokenizer.stored_as(name), **kept}.items():
            (context / member).parent.mkdir(exist_ok=True)
            (context / member).write_bytes(content)
        (context / "model.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (context / nemo2_context.FILE).write_text(nemo2_context.io_json(config), encoding="utf-8")


def _to_hf(conversion: Conversion, target: Path) -> None:
    from recipes.checkpoint.huggingface.export import write_huggingface

    with partial_directory(target) as directory:
        for warning in write_huggingface(
            conversion.source, directory, conversion.dtype_of, conversion.tell, conversion.layout
        ):
            warn(warning)


WRITERS: dict[str, Callable[[Conversion, Path], None]] = {
    "nemo": _to_nemo,
    "hf": _to_hf,
    "nemo2": _to_nemo2,
    "torch_dist": to_torch_dist,
}
