"""The mean of checkpoints: exact, in pieces, and read by everything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.average import MeanTensor, average
from recipes.checkpoint.convert import convert
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from tests.support.cases import completions
from tests.support.corpus import TinyData
from tests.support.forked import run_forked
from tests.support.nemo_files import MAIN
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


@pytest.fixture(scope="module")
def run(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    settings = {"output_dir": str(directory), "save_nemo": "false", "data__valid": "{}", "optim__lr": "3e-3"}
    settings |= {"trainer__max_steps": "3", "trainer__checkpoint__every_n_steps": "1"}
    settings |= {"trainer__checkpoint__keep_last": "9"}
    (outcome,) = gloo_pool.run(1, run_case, tiny_data.overrides(**settings))
    assert outcome.code == 0, outcome.message
    return directory / "tiny"


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_forked("tools.average", *arguments)


def test_the_last_checkpoints_of_a_run(run: Path, gloo_pool: GlooPool, tmp_path: Path) -> None:
    done = tool(run, "--last", 2)
    mean = run / "averages" / "step_00000002_to_00000003"
    assert done.returncode == 0 and done.stdout.startswith(f"wrote  {mean}, the mean of 2, in "), done.stderr
    paths = [run / "checkpoints" / f"step_{step:08d}" for step in (2, 3)]
    with (
        open_stored_model(mean) as found,
        open_stored_model(paths[0]) as second,
        open_stored_model(paths[1]) as third,
    ):
        assert found.tensors.keys() == third.tensors.keys() and found.model == third.model
        for name, tensor in found.tensors.items():
            expected = (second.tensors[name].load().double() + third.tensors[name].load().double()) / 2
            assert torch.equal(tensor.load(), expected.float()), name
    # It knows its tokenizer, being in the run's directory.
    convert(mean, tmp_path / "mean.nemo", "nemo")
    ((text,),) = gloo_pool.run(1, completions, str(tmp_path / "mean.nemo"), ["The"])
    assert isinstance(text, str)
    again = tool(run, "--last", 2)
    assert again.returncode == 2 and "exists; name a new file or directory" in again.stderr


def test_pieces_of_a_mean(run: Path) -> None:
    """What the writer reads of a large tensor, one after the other."""
    paths = [run / "checkpoints" / f"step_{step:08d}" for step in (1, 2, 3)]
    with open_stored_model(paths[0]) as a, open_stored_model(paths[1]) as b, open_stored_model(paths[2]) as c:
        name = "decoder.layers.1.mlp.linear_fc1.weight"
        parts = tuple(model.tensors[name] for model in (a, b, c))
        mean = MeanTensor(name, parts[0].shape, parts[0].dtype, (), of=parts)
        assert torch.equal(mean.box((3, 0), (5, 64)).load(), mean.load()[3:8])


def test_refusals(run: Path, tmp_path: Path) -> None:
    newest = run / "checkpoints" / "step_00000003"
    with pytest.raises(
        UserError, match=r"model\.nemo: is another model than .*: ffn_hidden_size 192 instead of 128"
    ):
        average([newest, MAIN / "model.nemo"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    single = tmp_path / "single"
    shutil.copytree(newest, single / "checkpoints" / newest.name)
    for arguments, message in (
        ((run, "--last", 4), "--last=4: must be 2 to 3, as many as"),
        ((run, "--last", 1), "--last=1: must be 2 to 3, as many as"),
        ((newest, "--out", tmp_path / "mean"), "one model is its own mean"),
        ((newest, newest), "--out: name a new directory"),
        ((single, "--last", 2), "single: has 1 checkpoint, a mean needs two or more"),
    ):
        done = tool(*arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
