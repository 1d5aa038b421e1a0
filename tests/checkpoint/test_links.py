"""Links in a directory from a stranger fetch nothing from elsewhere; one's own are followed inside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from recipes.checkpoint.convert import convert
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from tests.support.nemo_files import FIXTURES, MAIN
from tests.support.stored_forms import unpacked


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    """With a Hugging Face tokenizer, which conversion copies as it is."""
    convert(MAIN / "model.nemo", tmp_path / "hf", "hf")
    (tmp_path / "hf" / "tokenizer.model").unlink()
    return tmp_path / "hf"


@pytest.mark.parametrize("to", ["nemo", "nemo2"])
def test_a_tokenizers_file_elsewhere_is_not_copied(to: str, hugging_face: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    if to == "nemo":
        convert(hugging_face, tmp_path / "x.nemo", to)
        (tmp_path / "x.nemo").rename(tmp_path / "model.nemo")
        model = unpacked(tmp_path / "model", tmp_path)
        (folder,) = model.glob("*_tokenizer")
    else:
        model = tmp_path / "model"
        convert(hugging_face, model, to)
        folder = model / "context" / "tokenizer"
    (folder / "chat_template.jinja").symlink_to(secret)
    with pytest.raises(UserError, match=r"chat_template\.jinja is a link out of"):
        convert(model, tmp_path / "out", "hf")
    (folder / "chat_template.jinja").unlink()
    (model / "template").write_text("{{ messages }}")
    (folder / "chat_template.jinja").symlink_to(model / "template")  # Inside, it is followed.
    convert(model, tmp_path / "out", "hf")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize(
    "name", ["model_config.yaml", "model_weights/.metadata", "model_weights/common.pt", "model_weights"]
)
def test_other_links_out(name: str, tmp_path: Path) -> None:
    model, other = unpacked(tmp_path / "model"), unpacked(tmp_path / "other")
    path = model / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(other / name)
    with pytest.raises(UserError, match="is a link out of"), open_stored_model(model):
        pass


def test_a_link_to_the_whole_and_the_hubs_cache(hugging_face: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(hugging_face)
    cache = tmp_path / "models--someone--some"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(hugging_face.iterdir())):
        shutil.copyfile(file, cache / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    for path in (tmp_path / "linked", snapshot):
        with open_stored_model(path) as source:
            assert source.model.num_layers == 4 and source.text_tokenizer.vocab_size == 448
            source.tensors["output_layer.weight"].load()
            assert source.files["model.safetensors"] > 900_000


def test_dangling_links_are_no_files(hugging_face: Path) -> None:
    (hugging_face / "other.safetensors").symlink_to("nowhere")
    with open_stored_model(hugging_face) as source:
        assert set(source.files) == {"model.safetensors"}


def test_a_step_named_from_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's config.yaml, two directories up, names the tokenizer."""
    run = tmp_path / "run"
    step = run / "checkpoints" / "step_00000001"
    step.parent.mkdir(parents=True)
    convert(MAIN / "model.nemo", step, "torch_dist")
    tokenizer = FIXTURES / "nemo2_local" / "ckpt" / "context" / "tiny_sp.model"
    (run / "config.yaml").write_text(yaml.safe_dump({"tokenizer": {"model": str(tokenizer)}}))
    for directory, path in ((run.parent, "run"), (run, "."), (step.parent, step.name), (step, ".")):
        monkeypatch.chdir(directory)
        with open_stored_model(Path(path)) as source:
            assert source.text_tokenizer.vocab_size == 448, path
