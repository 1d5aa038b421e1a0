"""Local checkpoints of runs on several nodes (directories) that lose one: killed, recovered, bit for bit."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipes.checkpoint.local.files import LocalDirectory, Part
from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from tests.support.corpus import TinyData
from tests.support.fault_cases import ends
from tests.support.local_cases import on_nodes_case, overrides, refused_case, start_nodes
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome

TP2 = ["parallel.tensor_model_parallel_size=2"]
PP2_BF16 = ["parallel.pipeline_model_parallel_size=2", "trainer.precision=bf16"]
LAYOUTS = {
    "dp2": (2, 1, []),
    "dp2_bf16": (2, 1, ["trainer.precision=bf16"]),
    "tp2": (2, 1, TP2),
    "muon_dp2": (2, 1, ["model=tiny_nano_hindi", "optim=muon"]),
    "pp2_dp2_bf16": (4, 2, PP2_BF16),
}


def parts_on(disks: Path, node: int) -> list[Part]:
    (run,) = (disks / f"node_{node}").iterdir()
    return sorted(LocalDirectory(run).parts(), key=lambda part: (part.step, part.rank))


def run(pool: GlooPool, settings: list[str], disks: Path, size: int = 2, per_node: int = 1) -> list[Outcome]:
    return pool.run(size, on_nodes_case, settings, disks, per_node)


def killed(settings: list[str], disks: Path, size: int, per_node: int, step: int) -> None:
    """Runs until SIGKILL to all processes before ``step``."""
    faults = "; ".join(f"kill:rank={rank},step={step}" for rank in range(size))
    ended = ends(start_nodes(settings, disks, size, per_node, faults), timeout=300)
    # Whoever is a moment later may already miss the others.
    assert ended[0][0] is not None and -signal.SIGKILL in [code for code, _, _ in ended], ended


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lost_node_loses_nothing(
    layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    size, per_node, more = LAYOUTS[layout]
    disks = tmp_path / "disks"
    whole = run(gloo_pool, [*overrides(tiny_data, tmp_path / "whole"), *more], disks, size, per_node)[0]
    assert whole.code == 0 and len(whole.losses) == 12
    assert not [path for node in disks.iterdir() for path in node.iterdir()], "deleted at the end"
    # No shared checkpoint at all: recovery needs the nodes' disks alone.
    settings = [*overrides(tiny_data, tmp_path), *more]
    killed([*settings, "trainer.checkpoint.every_n_steps=null"], disks, size, per_node, 9)
    assert not finished_checkpoints(tmp_path / "tiny" / "checkpoints")
    saved = {part.step for part in parts_on(disks, 0)}
    shutil.rmtree(disks / "node_1")
    outcomes = run(gloo_pool, settings, disks, size, per_node)
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes
    (resumed,) = [each for each in outcomes[0].metrics if each.get("event") == "resumed"]
    assert resumed["step"] in saved and resumed["step"] in (6, 8)
    assert outcomes[0].stdout.count("part comes from rank") == per_node
    assert outcomes[0].losses == whole.losses
    assert not [path for node in disks.iterdir() for path in node.iterdir()]


@dataclass(frozen=True)
class Killed:
    """A run of two nodes, killed before step 9: a shared checkpoint of step 5, local ones of 6 or 8."""

    outputs: Path
    disks: Path
    losses: dict[int, float]

    def copied(self, to: Path) -> Killed:
        shutil.copytree(self.outputs, to / "outputs")
        shutil.copytree(self.disks, to / "disks")
        return Killed(to / "outputs", to / "disks", self.losses)

    @property
    def checkpoints(self) -> Path:
        return self.outputs / "tiny" / "checkpoints"

    def goes_on(self, pool: GlooPool, data: TinyData, *more: str) -> tuple[list[int], Outcome]:
        """Where it goes on from, and how; the losses must be those of the undisturbed run."""
        outcomes = run(pool, [*overrides(data, self.outputs), *more], self.disks)
        assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
        assert outcomes[0].losses == self.losses
        events = [each for each in outcomes[0].metrics if each.get("event") == "resumed"]
        return [each["step"] for each in events], outcomes[0]


@pytest.fixture(scope="module")
def state(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    directory = tmp_path_factory.mktemp("killed")
    whole = run(gloo_pool, overrides(tiny_data, directory / "whole"), directory / "others")[0]
    killed(overrides(tiny_data, directory / "outputs"), directory / "disks", 2, 1, 9)
    found = Killed(directory / "outputs", directory / "disks", whole.losses)
    assert [path.name for path in finished_checkpoints(found.checkpoints)] == ["step_00000005"]
    assert {part.rank for part in parts_on(found.disks, 0)} == {0, 1}, "its own and its neighbour's"
    return found


def test_a_damaged_part_is_replaced_by_its_copy(
    state: Killed, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """And a local checkpoint that is newer than the shared one wins."""
    here = state.copied(tmp_path)
    (directory,) = (here.disks / "node_0").iterdir()
    for path in directory.glob("rank_00000/step_*/tensors.pt"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    steps, outcome = here.goes_on(gloo_pool, tiny_data)
    assert steps[0] in (6, 8) and "rank 0's part comes from rank 1's node" in outcome.stdout
    assert "rank 1's part" not in outcome.stdout


def test_where_a_part_is_lost_with_its_copy_the_shared_one_is_used(
    state: Killed, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    here = state.copied(tmp_path)
    for path in here.disks.glob("node_*/*/rank_00001"):
        shutil.rmtree(path)
    steps, outcome = here.goes_on(gloo_pool, tiny_data)
    assert steps == [5] and "part comes" not in outcome.stdout and not outcome.stderr


@pytest.mark.slow
def test_the_past_decides(state: Killed, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """A shared checkpoint that was moved away takes the local ones after it with it; so does a new run."""
    here = state.copied(tmp_path / "moved")
    shutil.rmtree(here.checkpoints / "step_00000005")
    assert here.goes_on(gloo_pool, tiny_data)[0] == []
    here = state.copied(tmp_path / "anew")
    shutil.rmtree(here.outputs)
    assert here.goes_on(gloo_pool, tiny_data)[0] == []


@pytest.mark.slow
def test_another_layout_uses_the_shared_one_and_says_so(
    state: Killed, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    here = state.copied(tmp_path)
    settings = [*overrides(tiny_data, here.outputs), "parallel.tensor_model_parallel_size=2"]
    outcome = run(gloo_pool, settings, here.disks)[0]
    assert "local checkpoints of another layout are not used" in outcome.stderr
    assert "step_00000005, step 5" in outcome.stdout
    assert outcome.losses == pytest.approx(here.losses, rel=1e-5)


@pytest.mark.slow
def test_a_disk_that_refuses_costs_a_warning(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    disks = tmp_path / "disks"
    outcomes = gloo_pool.run(2, refused_case, overrides(tiny_data, tmp_path), disks, 1)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert "local checkpoint of step 2: rank 1: " in outcomes[0].stderr
    assert "No space left on device" in outcomes[0].stderr and not outcomes[1].stderr
    assert [path.name for path in finished_checkpoints(tmp_path / "tiny" / "checkpoints")] == [
        "step_00000010",
        "step_00000012",
    ]


@pytest.mark.slow
def test_one_process(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    whole = run(gloo_pool, overrides(tiny_data, tmp_path / "whole"), tmp_path / "other", 1)[0]
    killed(overrides(tiny_data, tmp_path), tmp_path / "disks", 1, 1, 9)
    (resumed,) = run(gloo_pool, overrides(tiny_data, tmp_path), tmp_path / "disks", 1)
    assert resumed.losses == whole.losses
    assert next(each["step"] for each in resumed.metrics if each.get("event") == "resumed") in (6, 8)


def test_settings_that_would_be_ignored(tiny_data: TinyData, tmp_path: Path) -> None:
    for changes, message in (
        ({"directory": "null"}, r"local.every_n_steps=2: would be ignored: set .*local.directory"),
        ({"every_n_steps": "null"}, r"local.directory=.*: nothing would be written: set .*every_minutes"),
    ):
        settings = overrides(tiny_data, tmp_path, trainer__checkpoint__local__directory="/scratch")
        more = [f"trainer.checkpoint.local.{key}={value}" for key, value in changes.items()]
        with pytest.raises(UserError, match=message):
            validate_pretrain(compose("pretrain", [*settings, *more]))
