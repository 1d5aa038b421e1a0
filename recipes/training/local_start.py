"""Where a run's local checkpoints are, and the newest that it can start from."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

from recipes.checkpoint.local.assemble import assemble
from recipes.checkpoint.local.files import LocalDirectory
from recipes.checkpoint.save.ranks import everywhere
from recipes.config.schema import PretrainConfig
from recipes.config.world import World
from recipes.errors import UserError
from recipes.files import atomic_write, make_directory
from recipes.run_directory import RunDirectory

ID_FILE = "local_id"


def read_id(directory: RunDirectory) -> str:
    """What tells this run from others of its name; empty if it has had no local checkpoints."""
    path = directory.path / ID_FILE
    return path.read_text("ascii").strip() if path.is_file() else ""


def new_id(directory: RunDirectory) -> str:
    """Makes and records one: local checkpoints from before are no part of the run any more."""
    made = uuid.uuid4().hex[:12]
    with atomic_write(directory.path / ID_FILE) as file:
        file.write(f"{made}\n".encode())
    return made


def local_directory(config: PretrainConfig, run_id: str) -> LocalDirectory:
    """On this node."""
    assert config.trainer.checkpoint.local.directory is not None
    return LocalDirectory(Path(config.trainer.checkpoint.local.directory) / f"{config.name}-{run_id}")


def layout_of(config: PretrainConfig, world: World) -> str:
    """All that decides which tensors a rank holds, besides the model."""
    parallel = config.parallel
    sizes = {
        "processes": world.size,
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "first stage": parallel.num_layers_in_first_pipeline_stage,
        "last stage": parallel.num_layers_in_last_pipeline_stage,
        "context": parallel.context_parallel_size,
        "expert": parallel.expert_model_parallel_size,
        "expert tensor": parallel.expert_tensor_parallel_size,
        "optimizer": config.optim.name,
        "precision": config.trainer.precision,
    }
    return ", ".join(f"{name} {size}" for name, size in sizes.items() if size is not None)


def find_local(config: PretrainConfig, world: World, run_id: str, shared: Iterable[int]) -> Path | None:
    """This rank's part of the newest local checkpoint, if that is newer than all ``shared`` ones.

    All ranks call it together.

    Raises:
        UserError: a node's directory cannot be made. Every rank raises it.
    """
    failure: str | None = None
    try:
        make_directory(Path(config.trainer.checkpoint.local.directory or ""))
    except UserError as error:
        failure = f"trainer.checkpoint.local.directory on rank {world.rank}'s node: {error}"
    failures = [each for each in everywhere(failure) if each is not None]
    if failures:
        raise UserError(failures[0])
    if not run_id:
        return None
    directory = local_directory(config, run_id)
    sha256 = config.trainer.checkpoint.compares_sha256
    step = assemble(directory, world, layout_of(config, world), shared, sha256=sha256)
    return directory.place(world.rank, step) if step is not None else None
