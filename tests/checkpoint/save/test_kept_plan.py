"""A save takes over the plan of the one before where every rank has the same tensors, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.save.manifest import finished_checkpoints, verify
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case

ROWS = 4


def counted_plans() -> list[int]:
    """Grows with every plan that this rank puts together; holds of how many ranks."""
    from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner

    made: list[int] = []
    original: Any = MCoreSavePlanner.create_global_plan

    def counted(self: Any, plans: Any) -> Any:
        made.append(len(plans))
        return original(self, plans)

    MCoreSavePlanner.create_global_plan = counted
    return made


def saves_case(directory: str, saves: list[tuple[str, ...]]) -> list[tuple[int, list[Any]]]:
    """Saves that follow each other, of "both", of which each of two ranks has half, and of what rank 1 has.

    Returns:
        For each save how many plans there have been so far, and the tensors as read back.
    """
    import torch
    import torch.distributed as dist
    from megatron.core.dist_checkpointing import load_plain_tensors
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    from recipes.checkpoint.save.between import BetweenSaves
    from recipes.checkpoint.save.sharded_save import ShardedSave
    from recipes.config.schema import ParallelConfig
    from recipes.config.world import launched_world
    from tests.support.engine import process_groups

    made = counted_plans()
    with process_groups(ParallelConfig(), launched_world()):
        rank, between, told = dist.get_rank(), BetweenSaves(), []
        between.shares.apply = lambda _: None  # type: ignore[method-assign]  # Nothing here is on both ranks.
        for number, others in enumerate(saves):
            half = torch.full((ROWS,), 10.0 * number + rank)
            state = {"both": ShardedTensor.from_rank_offsets("both", half, (0, rank, 2))}
            for name in others if rank == 1 else ():
                state[name] = ShardedTensor.from_rank_offsets(name, torch.full((ROWS,), float(number)))
            path = Path(directory, str(number))
            path.mkdir(exist_ok=True)
            save = ShardedSave(state, path, path, "", copied=False, between=between)
            save.write()
            save.finish()
            dist.barrier()
            read = load_plain_tensors(str(path))
            told.append((len(made), [read[name].tolist() for name in sorted(read)]))
        return told


def test_only_what_all_ranks_have_again(gloo_pool: GlooPool, tmp_path: Path) -> None:
    """Rank 0, which plans, has the same all the time: rank 1's word is needed."""
    saves: list[tuple[str, ...]] = [(), (), ("more",), ("more",), ("other",), ()]
    told, of_the_other = gloo_pool.run(2, saves_case, str(tmp_path), saves)
    assert [plans for plans, _ in told] == [1, 1, 2, 2, 3, 4]
    assert [plans for plans, _ in of_the_other] == [0] * 6
    for number, (others, (_, read)) in enumerate(zip(saves, told, strict=True)):
        both = [10.0 * number] * ROWS + [10.0 * number + 1] * ROWS
        assert read == [both, *([float(number)] * ROWS for _ in others)]


def two_at_once_case(directory: str) -> tuple[int, list[list[float]], bool]:
    """The second save is planned, by the first one's plan, before the first is finished: how many plans were
    made, what is read back, and whether the saves describe their files in one object.
    """
    import torch
    from megatron.core.dist_checkpointing import load_plain_tensors
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    from recipes.checkpoint.save.between import BetweenSaves
    from recipes.checkpoint.save.sharded_save import ShardedSave
    from recipes.config.schema import ParallelConfig
    from recipes.config.world import launched_world
    from tests.support.engine import process_groups

    made, paths, saves = counted_plans(), [Path(directory, name) for name in ("first", "second")], []
    with process_groups(ParallelConfig(), launched_world()):
        between = BetweenSaves()
        trained = torch.zeros(ROWS)
        for path in paths:
            path.mkdir()
            trained += 1
            state = {"trained": ShardedTensor.from_rank_offsets("trained", trained)}
            saves.append(ShardedSave(state, path, path, "", copied=True, between=between))
            assert saves[-1].host_memory == trained.nbytes
        for save in saves:
            save.write()
            save.finish()
        read = [load_plain_tensors(str(path))["trained"].tolist() for path in paths]
    return len(made), read, saves[0]._metadata is saves[1]._metadata


def test_two_saves_share_the_plan_and_nothing_that_changes(gloo_pool: GlooPool, tmp_path: Path) -> None:
    (found,) = gloo_pool.run(1, two_at_once_case, str(tmp_path))
    assert found == (1, [[1.0] * ROWS, [2.0] * ROWS], False)


def planned_run_case(overrides: list[str]) -> tuple[int, int]:
    """A run; its exit code, and how many plans this rank has put together."""
    made = counted_plans()
    return run_case(overrides).code, len(made)


@pytest.mark.parametrize(
    "optim", [["optim=adamw"], ["optim=muon", "model=tiny_nano_hindi"]], ids=["adamw", "muon"]
)
def test_a_run_plans_once(optim: list[str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Its checkpoints are, byte by byte, those of a run that ends at each and plans the next one anew."""
    settings = {
        "save_nemo": "false",
        "optim__lr_decay_steps": "6",
        "optim__lr_warmup_steps": "1",
        "trainer__checkpoint__every_n_steps": "2",
        "trainer__checkpoint__keep_last": "9",
        "trainer__ema__decay": "0.5",
    }
    once, anew = (
        [*tiny_data.overrides(output_dir=str(tmp_path / name), **settings), *optim]
        for name in ("once", "anew")
    )
    assert gloo_pool.run(2, planned_run_case, [*once, "trainer.max_steps=6"]) == [(0, 1), (0, 0)]
    for steps in (2, 4, 6):
        assert gloo_pool.run(2, planned_run_case, [*anew, f"trainer.max_steps={steps}"]) == [(0, 1), (0, 0)]
    tensors = []
    for name in ("once", "anew"):
        manifests = map(verify, finished_checkpoints(tmp_path / name / "tiny" / "checkpoints"))
        files = [manifest["files"] for manifest in manifests]
        tensors.append([{file: each[file] for file in each if file.endswith(".distcp")} for each in files])
    assert tensors[0] == tensors[1] and len(tensors[0]) == 3
    assert len({each["__0_0.distcp"]["sha256"] for each in tensors[0]}) == 3
