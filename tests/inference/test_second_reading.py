"""--verify reads the source's configuration a second time, by other code than converted it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recipes.checkpoint.convert import convert
from recipes.checkpoint.nemo import classic_config, nemo2_config
from recipes.checkpoint.open import open_stored_model
from recipes.inference.second_reading import SecondReading, second_reading
from recipes.inference.verify_conversion import BOUND, compare_logits
from tests.support.engine import initialized, process_groups
from tests.support.huggingface_models import (
    CASES,
    LLAMA,
    export,
    module_cache,
    shaken,
    stored_in,
    tensors_of,
    tokens_for,
)
from tests.support.nemo_files import CONFIG, FIXTURES, MAIN, changed

TOKENS = torch.arange(3, 3 + 2 * 24).view(2, 24)


@pytest.fixture(scope="module", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with process_groups(), module_cache(tmp_path_factory.mktemp("modules")):
        yield


def edited(target: Path, **changes: Any) -> Path:
    """NeMo's own file, its configuration changed."""

    def edit(content: bytes) -> bytes:
        return yaml.safe_dump({**yaml.safe_load(content), **changes}).encode()

    return changed(MAIN / "model.nemo", target, CONFIG, edit)


def reading(path: Path, tokens: torch.Tensor = TOKENS) -> SecondReading | None:
    with open_stored_model(path) as source:
        return second_reading(source, tokens)


@pytest.mark.parametrize("name", ["classic_te_torch_dist", "classic_local_single", "nemo2_v200_te"])
def test_it_is_what_nemo_computed(name: str) -> None:
    path = next(
        FIXTURES / name / part for part in ("model.nemo", "ckpt") if (FIXTURES / name / part).exists()
    )
    expected = torch.load(FIXTURES / name / "logits.pt", weights_only=True)
    found = reading(path, expected["input_ids"])
    assert found is not None and found.reader == "megatron-core"
    assert (found.logits - expected["logits"]).abs().max() < 2e-5


@pytest.mark.parametrize(
    "changes", [{"window_size": [8, 0]}, {"rotary_percentage": 0.5}, {"rotary_base": 500}]
)
def test_options_are_understood_alike(changes: dict[str, Any], tmp_path: Path) -> None:
    """And they matter: without the option the logits are others."""
    path = edited(tmp_path / "model.nemo", **changes)
    convert(path, tmp_path / "out.nemo", "nemo")
    found = compare_logits(path, tmp_path / "out.nemo")
    assert found.agrees and found.readings_agree and found.second_reader == "megatron-core"
    plain, other = reading(MAIN / "model.nemo"), reading(path)
    assert plain is not None and other is not None and (plain.logits - other.logits).abs().max() > 0.1


def test_a_reader_that_overlooks_an_option_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides would agree: they were read by the same code."""
    path = edited(tmp_path / "model.nemo", window_size=[8, 0])
    monkeypatch.setattr(classic_config, "window_settings", lambda label, window: {})
    convert(path, tmp_path / "out.nemo", "nemo")
    found = compare_logits(path, tmp_path / "out.nemo")
    assert found.difference == 0 and not found.readings_agree and not found.agrees
    assert found.second_difference > 100 * BOUND * found.largest


def test_of_nemo_2_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(MAIN / "model.nemo", tmp_path / "model", "nemo2")
    file = tmp_path / "model" / "context" / "model.yaml"
    document = yaml.safe_load(file.read_text())
    document["config"]["window_size"] = [8, 0]
    file.write_text(yaml.safe_dump(document))
    convert(tmp_path / "model", tmp_path / "sound.nemo", "nemo")
    assert compare_logits(tmp_path / "model", tmp_path / "sound.nemo").agrees
    monkeypatch.setattr(nemo2_config, "window_settings", lambda label, window: {})
    convert(tmp_path / "model", tmp_path / "wrong.nemo", "nemo")
    assert not compare_logits(tmp_path / "model", tmp_path / "wrong.nemo").agrees


@pytest.mark.parametrize("case", ["llama", "mistral", "qwen3_moe", "gemma3", "nano_hindi"])
def test_transformers_reads_hugging_face_sources(case: str, tmp_path: Path) -> None:
    model = CASES[case]
    source = export(tmp_path / "hf", model, stored_in(tmp_path / "o", tensors_of(shaken(initialized(model)))))
    convert(source, tmp_path / "out", "torch_dist")
    found = compare_logits(source, tmp_path / "out")
    assert found.agrees and found.second_reader == "transformers" and found.second_difference < 1e-4


def test_a_misread_config_json_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.families import llama

    source = export(tmp_path / "hf", LLAMA, stored_in(tmp_path / "o", tensors_of(shaken(initialized(LLAMA)))))
    monkeypatch.setitem(
        llama.FAMILY.from_hugging_face,  # type: ignore[arg-type]
        "llama",
        lambda values: {**llama._from_llama(values), "layernorm_epsilon": 1e-6},
    )
    convert(source, tmp_path / "out", "torch_dist")
    found = compare_logits(source, tmp_path / "out")
    assert found.difference == 0 and not found.readings_agree and not found.agrees


def test_a_strangers_code_is_not_run(tmp_path: Path) -> None:
    """Nor is there a second reader for files of this project, which nothing else reads."""
    model = CASES["nano_hindi"]
    source = export(tmp_path / "hf", model, stored_in(tmp_path / "o", tensors_of(shaken(initialized(model)))))
    code = source / "modeling_nano_hindi.py"
    ours = code.read_text()
    assert reading(source, tokens_for(model)) is not None
    code.write_text(ours + "\nraise SystemExit('run')\n")
    assert reading(source, tokens_for(model)) is None
    code.write_text(ours)
    config = json.loads((source / "config.json").read_text())
    llama = export(tmp_path / "l", LLAMA, stored_in(tmp_path / "o2", tensors_of(initialized(LLAMA))))
    plain = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**plain, "auto_map": config["auto_map"]}))
    assert reading(llama, tokens_for(LLAMA)) is None
    convert(source, tmp_path / "back", "torch_dist")
    assert reading(tmp_path / "back", tokens_for(model)) is None
