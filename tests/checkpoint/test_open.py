"""The lazy view of stored models: names, laziness, resharding, and structural damage in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.formats.archive import pack_archive
from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.lazy import LazyTensor, joined, whole
from recipes.checkpoint.formats.names import canonical_names
from recipes.checkpoint.formats.torch_file import read_torch_file
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from recipes.inference.text_model import load_text_model
from tests.support.corpus import TinyData
from tests.support.nemo_files import FIXTURES, MAIN
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case
from tests.support.source_cases import MODELS, load_case, write_case
from tests.support.stored_forms import local_state, rank_files, unpacked, zarr_directory

ALL_FIXTURES = sorted(
    path / ("ckpt" if (path / "ckpt").is_dir() else "model.nemo") for path in FIXTURES.iterdir()
)
PER_LAYER = {
    "self_attention.linear_qkv.weight": (128, 64),
    "self_attention.linear_qkv.layer_norm_weight": (64,),
    "self_attention.linear_proj.weight": (64, 64),
    "mlp.linear_fc1.weight": (384, 64),
    "mlp.linear_fc1.layer_norm_weight": (64,),
    "mlp.linear_fc2.weight": (64, 192),
}
SHAPES = {
    "embedding.word_embeddings.weight": (512, 64),
    "output_layer.weight": (512, 64),
    "decoder.final_layernorm.weight": (64,),
    **{f"decoder.layers.{n}.{name}": shape for n in range(4) for name, shape in PER_LAYER.items()},
}
TO_LOCAL = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The fixtures' numbers under canonical names, read by torch.load."""
    state = local_state(tmp_path_factory.mktemp("truth") / "x")
    found = {}
    for name in SHAPES:
        local = name
        for fused, alone in TO_LOCAL.items():
            local = local.replace(fused, alone)
        found[name] = state[f"model.{local}"]
    return found


@pytest.mark.parametrize("path", ALL_FIXTURES, ids=lambda path: path.parent.name)
def test_every_form_has_the_same_tensors(path: Path, truth: dict[str, torch.Tensor]) -> None:
    with open_stored_model(path) as source:
        assert {name: tensor.shape for name, tensor in source.tensors.items()} == SHAPES
        for name, tensor in source.tensors.items():
            expected = truth[name].to(tensor.dtype)
            assert torch.equal(tensor.load(verify=True), expected), name
        assert source.model.num_layers == 4 and source.text_tokenizer.vocab_size == 448


def test_kinds_in_words() -> None:
    kinds = {}
    for path in ALL_FIXTURES:
        with open_stored_model(path) as source:
            kinds[path.parent.name] = (source.kind, source.generation, source.version)
    assert kinds["classic_te_torch_dist"] == (
        "classic NeMo 2.0.0, torch_dist weights, in a .nemo archive",
        "classic",
        "2.0.0",
    )
    assert "zarr" in kinds["classic_te_zarr"][0] and "one model_weights.ckpt" in kinds["classic_te_single"][0]
    assert kinds["nemo2_local"] == ("NeMo 2, torch_dist weights, in a directory", "nemo2", None)


def test_only_the_wanted_bytes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = Blob.read_into

    def count(self: Blob, buffer: memoryview, offset: int = 0) -> None:
        read.append(len(buffer))
        original(self, buffer, offset)

    with open_stored_model(FIXTURES / "classic_te_single" / "model.nemo") as source:
        monkeypatch.setattr(Blob, "read_into", count)
        assert not read
        tensor = source.tensors["decoder.layers.2.mlp.linear_fc2.weight"]
        tensor.load()
        assert read == [tensor.nbytes]
        tensor.box((8, 0), (4, 192)).load()
        assert read[1:] == [4 * 192 * 4]
    read.clear()
    with open_stored_model(MAIN / "model.nemo") as source:
        opening = sum(read)
        source.tensors["decoder.layers.2.mlp.linear_fc2.weight"].load()
    # The item's own index and pickle are a few kB.
    assert opening < 40_000 and 49_152 <= sum(read) - opening < 49_152 + 20_000


def test_a_loaded_tensor_has_memory_of_its_own(truth: dict[str, torch.Tensor]) -> None:
    with open_stored_model(MAIN / "model.nemo") as source:
        tensor = source.tensors["output_layer.weight"]
        tensor.load().zero_()
        assert torch.equal(tensor.load(), truth["output_layer.weight"])


@pytest.mark.parametrize("seed", range(20))
def test_boxes_are_torch_slices(seed: int, tmp_path: Path) -> None:
    """Of tensors of several parts, some of them not contiguous in their files."""
    generator = torch.Generator().manual_seed(seed)
    pieces, expected = [], []
    for number in range(3):
        numbers = torch.randn(6, 10, generator=generator)
        path = tmp_path / f"{number}.pt"
        torch.save({"a": numbers.t()} if number % 2 else {"a": numbers}, path)
        stored = read_torch_file(Blob(path, 0, path.stat().st_size, path.name))["a"]
        if number % 2:
            stored = type(stored)(
                stored.blob, stored.dtype, stored.shape[::-1], stored.strides[::-1], stored.offset
            )
        pieces.append(whole("x", stored))
        expected.append(numbers)
    tensor, dense = joined("x", pieces, 1), torch.cat(expected, 1)
    assert torch.equal(tensor.load(), dense)
    for _ in range(10):
        low = [int(torch.randint(0, side, (1,), generator=generator)) for side in dense.shape]
        size = [
            int(torch.randint(1, side - start + 1, (1,), generator=generator))
            for side, start in zip(dense.shape, low, strict=True)
        ]
        box = tuple(slice(start, start + n) for start, n in zip(low, size, strict=True))
        part = tensor.box(low, size)
        assert part.shape == tuple(size) and torch.equal(part.load(), dense[box])
        half = torch.empty(size, dtype=torch.bfloat16)
        part.read_into(half)
        assert torch.equal(half, dense[box].bfloat16())


def test_names() -> None:
    names = canonical_names(
        [
            "model.decoder.layers.0.input_layernorm.weight",
            "model.decoder.layers.0.pre_mlp_layernorm.bias",
            "module.decoder.layers.1.pre_mlp_layernorm.weight",
            "decoder.layers.1.mlp.router.weight",
            "decoder.layers.1.mlp.experts.local_experts.13.linear_fc1.weight",
            "model.language_model.encoder.layers.2.self_attention.query_key_value.bias",
        ]
    )
    assert list(names.values()) == [
        "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
        "decoder.layers.0.mlp.linear_fc1.layer_norm_bias",
        "decoder.layers.1.pre_mlp_layernorm.weight",  # Before experts it stands alone.
        "decoder.layers.1.mlp.router.weight",
        "decoder.layers.1.mlp.experts.linear_fc1.weight13",
        "decoder.layers.2.self_attention.linear_qkv.bias",
    ]
    with pytest.raises(UserError, match="the same tensor"):
        canonical_names(["model.output_layer.weight", "module.output_layer.weight"])


# Layouts

LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "single": (1, {}),
    "tp2": (2, {"tensor_model_parallel_size": 2, "expert_tensor_parallel_size": 1}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
    "ep2": (2, {"expert_model_parallel_size": 2}),
}


@pytest.fixture(scope="module")
def written(gloo_pool: GlooPool, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """name, layout -> the .nemo that megatron-core wrote under the layout."""
    made: dict[tuple[str, str], Path] = {}
    tokenizer = FIXTURES / "nemo2_local" / "ckpt" / "context" / "tiny_sp.model"

    def write(name: str, layout: str) -> Path:
        if (name, layout) not in made:
            directory = tmp_path_factory.mktemp(f"{name}_{layout}")
            world_size, parallel = LAYOUTS[layout]
            gloo_pool.run(world_size, write_case, name, str(directory), parallel, str(tokenizer))
            made[name, layout] = directory / f"{name}.nemo"
        return made[name, layout]

    return write


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("saved", "loaded"), [("single", "tp2"), ("tp2", "single"), ("single", "pp2")])
def test_any_layout_reads_any_other(
    name: str, saved: str, loaded: str, written: Callable[[str, str], Path], gloo_pool: GlooPool
) -> None:
    """Every element is what initialisation gives at its global place, which no layout changes."""
    world_size, parallel = LAYOUTS[loaded]
    compared = gloo_pool.run(world_size, load_case, name, str(written(name, saved)), parallel)
    assert all(count > 50_000 for count in compared)


@pytest.mark.parametrize("name", ["experts", "param_moe"])
def test_experts_over_ranks(name: str, written: Callable[[str, str], Path], gloo_pool: GlooPool) -> None:
    path = written(name, "ep2")
    assert len(gloo_pool.run(2, load_case, name, str(path), LAYOUTS["ep2"][1])) == 2
    gloo_pool.run(1, load_case, name, str(path), {})
    with open_stored_model(path) as source:
        experts = [name for name in source.tensors if ".experts.linear_fc2.weight" in name]
        with_experts = 3 if name == "experts" else 2
        assert len(experts) == 4 * with_experts and source.tensors[experts[0]].shape[0] == 64


def test_muons_state_is_left_alone(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """It is saved under other keys than AdamW's."""
    settings = tiny_data.overrides(output_dir=str(tmp_path), trainer__max_steps="2", save_nemo="false")
    untied = "model.share_embeddings_and_output_weights=false"
    (outcome,) = gloo_pool.run(1, run_case, [*settings, untied, "optim=muon"])
    assert outcome.code == 0, outcome.message
    with open_stored_model(tmp_path / "tiny") as source:
        assert source.model.num_layers == 4 and source.skipped > 0
        assert len(source.tensors) == 3 + 4 * len(PER_LAYER)


def test_training_checkpoints(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """A run's newest checkpoint holds what its .nemo holds; optimizer state is left alone."""
    settings = tiny_data.overrides(output_dir=str(tmp_path), trainer__max_steps="4")
    outcomes = gloo_pool.run(2, run_case, [*settings, "parallel=tp2", "trainer.checkpoint.every_n_steps=2"])
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].message
    run = tmp_path / "tiny"
    newest = run / "checkpoints" / "step_00000004"
    with (
        open_stored_model(run / "model.nemo") as nemo,
        open_stored_model(run) as source,
        open_stored_model(newest) as step,
    ):
        assert source.path == step.path == newest and source.generation == "training"
        assert "step 4" in source.kind and source.skipped > len(source.tensors) / 4
        assert source.model == step.model and source.model.hidden_size == 64
        assert source.tensors.keys() == nemo.tensors.keys()
        for name, tensor in source.tensors.items():
            assert torch.equal(tensor.load(), nemo.tensors[name].load()), name
    tokens = torch.arange(5, 37)[None]
    logits = [
        load_text_model(str(path), precision="fp32", num_threads=1) for path in (run, run / "model.nemo")
    ]
    assert torch.equal(logits[0].logits(tokens), logits[1].logits(tokens))
    assert logits[0].document_start_id == logits[1].document_start_id is not None
    (damaged,) = newest.glob("__1_0.distcp")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256"), open_stored_model(newest):
        pass
    with open_stored_model(newest, verify=False) as source:  # tools.inspect without --check
        assert source.model.num_layers == 4
    with open_stored_model(run) as source:
        assert source.path.name == "step_00000002"


# Damage


def refused(path: Path, load: bool = True) -> str:
    """The one line with which the model is refused, at the latest when all of it is read."""
    with pytest.raises(UserError) as caught, open_stored_model(path) as source:
        _ = source.model
        if load:
            for tensor in source.tensors.values():
                tensor.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_metadata(directory: Path, edit: Callable[[Any], None]) -> Path:
    path = unpacked(directory, FIXTURES / "classic_te_torch_dist_tp2") / "model_weights" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    edit(metadata)
    path.write_bytes(pickle.dumps(metadata))
    return directory


FC2 = "model.decoder.layers.mlp.linear_fc2.weight"


def _drop_chunk(metadata: Any) -> None:
    metadata.state_dict_metadata[FC2].chunks.pop()


def _drop_place(metadata: Any) -> None:
    index = next(index for index in metadata.storage_data if index.fqn == FC2)
    del metadata.storage_data[index]


def _overlap(metadata: Any) -> None:
    chunks = metadata.state_dict_metadata[FC2].chunks
    chunks[1] = chunks[0]


def _outside(metadata: Any) -> None:
    chunk = metadata.state_dict_metadata[FC2].chunks[0]
    chunk.offsets = torch.Size([9, 0, 0])


def _negative(metadata: Any) -> None:
    chunk = metadata.state_dict_metadata[FC2].chunks[0]
    chunk.offsets = torch.Size([-1, 0, 0])


def _far(metadata: Any) -> None:
    for index, storage in metadata.storage_data.items():
        if index.fqn == FC2:
            storage.offset += 10**9


def _short(metadata: Any) -> None:
    for index, storage in metadata.storage_data.items():
        if index.fqn == FC2:
            storage.length = 100


def _other_item(metadata: Any) -> None:
    places = {index.fqn: storage for index, storage in metadata.storage_data.items()}
    for index in list(metadata.storage_data):
        if index.fqn == FC2:
            metadata.storage_data[index] = places["model.output_layer.weight"]


def _other_type(metadata: Any) -> None:
    metadata.state_dict_metadata[FC2].properties.dtype = torch.int32


def _stacked_twice(metadata: Any) -> None:
    metadata.state_dict_metadata[FC2.replace("model.", "module.")] = metadata.state_dict_metadata[FC2]


def _no_length(metadata: Any) -> None:
    for index, storage in metadata.storage_data.items():
        if index.fqn == FC2:
            del storage.length


def _many_layers(metadata: Any) -> None:
    item = metadata.state_dict_metadata[FC2]
    item.size = torch.Size([2**20, 1, 1])
    item.chunks = [type(item.chunks[0])(torch.Size([0, 0, 0]), item.size)]


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_drop_chunk, "parts"),
        (_drop_place, "missing"),
        (_overlap, "overlap|twice"),
        (_outside, "missing"),
        (_negative, "missing|outside"),
        (_far, "asked for"),
        (_short, "100 bytes"),
        (_other_item, "metadata says"),
        (_other_type, "metadata says"),
        (_stacked_twice, "missing|twice|declared|bytes"),
        (_many_layers, "shape|parts|bytes"),
        (_no_length, "length"),
    ],
)
def test_damaged_torch_dist(edit: Callable[[Any], None], named: str, tmp_path: Path) -> None:
    message = refused(with_metadata(tmp_path / "model", edit))
    assert any(part in message for part in named.split("|")), message
    assert "linear_fc2" in message or "distcp" in message or ".metadata" in message


def test_a_missing_or_cut_shard_is_named(tmp_path: Path) -> None:
    model = unpacked(tmp_path / "model", FIXTURES / "classic_te_torch_dist_tp2")
    shard = model / "model_weights" / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert "__1_0.distcp" in refused(model)
    shard.unlink()
    assert "__1_0.distcp" in refused(model) or "bytes" in refused(model)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dtype": ">f4"}, "dtype"),
        ({"compressor": {"id": "zlib"}}, "compressor"),
        ({"order": "F"}, "order"),
        ({"zarr_format": 3}, "zarr_format"),
        ({"shape": [4, 64, 2**60]}, "shape"),
        ({"shape": [4, 64]}, "shape"),
        ({"shape": []}, "shape"),
        ({"chunks": [1, 0, 192]}, "shape"),
        ({"chunks": [1, 64, 96]}, "bytes"),
        ({"shape": [5, 64, 192]}, "no such chunk"),
        ({"shape": [2**30, 64, 192]}, "chunks"),
        ({"shape": [90000, 64, 192], "fill_value": 0}, "no such chunk"),
        ({"filters": [{"id": "delta"}]}, "filters"),
        ({"dimension_separator": "../"}, "dimension_separator"),
        ({"dtype": "<i4"}, ""),
    ],
)
def test_damaged_zarr(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    model = zarr_directory(tmp_path / "model", tmp_path / "scratch", torch.float32)
    array = model / "model_weights" / FC2 / ".zarray"
    array.write_text(json.dumps({**json.loads(array.read_text()), **change}))
    if named:
        message = refused(model)
        assert named in message and "linear_fc2" in message
    else:
        with open_stored_model(model) as source:
            assert source.tensors["decoder.layers.0.mlp.linear_fc2.weight"].dtype == torch.int32


def test_missing_chunks_are_fill_value(tmp_path: Path) -> None:
    model = zarr_directory(tmp_path / "model", tmp_path / "scratch", torch.float32)
    array = model / "model_weights" / "model.decoder.final_layernorm.weight"
    described = json.loads((array / ".zarray").read_text())
    (array / "0").unlink()
    assert "no such chunk" in refused(model)
    (array / ".zarray").write_text(json.dumps({**described, "fill_value": 1.5}))
    with open_stored_model(model) as source:
        assert torch.equal(source.tensors["decoder.final_layernorm.weight"].load(), torch.full((64,), 1.5))


def test_edge_chunks_of_zarr_are_whole(tmp_path: Path) -> None:
    """The last chunk of an axis is stored in full, padding included."""
    model = zarr_directory(tmp_path / "model", tmp_path / "scratch", torch.float32)
    array = model / "model_weights" / "model.decoder.final_layernorm.weight"
    described = json.loads((array / ".zarray").read_text())
    numbers = torch.arange(80.0)
    (array / ".zarray").write_text(json.dumps({**described, "chunks": [40], "dimension_separator": "/"}))
    for place in range(2):
        (array / str(place)).write_bytes(numbers[place * 40 : place * 40 + 40].numpy().tobytes())
    with open_stored_model(model) as source:
        assert torch.equal(source.tensors["decoder.final_layernorm.weight"].load(), numbers[:64])


def edit_rank(model: Path, rank: str, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = model / rank / "model_weights.ckpt"
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def test_ranks_that_do_not_fit_together(tmp_path: Path) -> None:
    model = rank_files(tmp_path / "model", tmp_path / "scratch", tp=2)
    norm = "model.decoder.layers.1.input_layernorm.weight"
    qkv = "model.decoder.layers.1.self_attention.linear_qkv.weight"

    def broken(edit: Callable[[dict[str, torch.Tensor]], None]) -> str:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(model, copy)
        edit_rank(copy, "mp_rank_01", edit)
        return refused(copy)

    assert "different numbers" in (message := broken(lambda s: s[norm].add_(1))) and "layers.1" in message
    assert "not stored by both" in broken(lambda s: s.pop(norm))
    assert "different shapes" in broken(lambda s: s.update({qkv: s[qkv][:, :32].clone()}))
    assert "different shapes" in broken(lambda s: s.update({qkv: s[qkv].bfloat16()}))
    assert "is not a tensor" in broken(lambda s: s.update({qkv: [1, 2]}))
    assert "linear_qkv" in broken(lambda s: s.update({qkv: s[qkv][:32].clone()}))
    shutil.rmtree(model / "mp_rank_00")
    assert "rank files" in refused(model)


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    model = rank_files(tmp_path / "model", tmp_path / "scratch", tp=2)
    for rank in ("mp_rank_00", "mp_rank_01"):
        edit_rank(model, rank, lambda s: s.update({"model.decoder.layers.0.adapter.weight": torch.ones(4)}))
    assert "adapter.weight" in refused(model)


def test_extra_and_missing_tensors_are_errors_when_loaded(tmp_path: Path) -> None:
    model = rank_files(tmp_path / "model", tmp_path / "scratch", tp=1)
    edit_rank(
        model, "mp_rank_00", lambda s: s.update({"model.decoder.layers.0.adapter.weight": torch.ones(4)})
    )
    with pytest.raises(UserError, match=r"decoder\.layers\.0\.adapter\.weight is left over"):
        load_text_model(str(model), precision="fp32", num_threads=1)
    edit_rank(
        model, "mp_rank_00", lambda s: [s.pop(name) for name in list(s) if "adapter" in name or "fc2" in name]
    )
    with pytest.raises(UserError, match=r"linear_fc2\.weight is missing"):
        load_text_model(str(model), precision="fp32", num_threads=1)


def test_flipped_bits_of_weights_are_seen_when_asked(tmp_path: Path) -> None:
    """torch's files record a checksum, which nobody else looks at."""
    model = unpacked(tmp_path / "model", FIXTURES / "classic_te_single")
    path = model / "model_weights.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with open_stored_model(model) as source:
        for tensor in source.tensors.values():
            tensor.load()
        with pytest.raises(UserError, match="CRC-32"):
            for tensor in source.tensors.values():
                tensor.load(verify=True)


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_model(name: str, tmp_path: Path) -> None:
    if name == "file":
        (tmp_path / "file").write_text("hello")
    assert ("no such file" if name == "nothing" else "not a .nemo") in refused(tmp_path / name)
    assert "no model that is known" in refused(tmp_path)


def test_archives_and_directories_are_alike(tmp_path: Path) -> None:
    model = zarr_directory(tmp_path / "model", tmp_path / "scratch", torch.bfloat16, tp=2)
    pack_archive(model, tmp_path / "model.nemo")
    with open_stored_model(model) as left, open_stored_model(tmp_path / "model.nemo") as right:
        assert left.tensors.keys() == right.tensors.keys() and left.files.keys() == right.files.keys()
        for name in left.tensors:
            assert isinstance(right.tensors[name], LazyTensor)
            assert torch.equal(left.tensors[name].load(), right.tensors[name].load())
