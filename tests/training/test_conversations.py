"""Fine-tuning on conversations: what is counted, against transformers; runs, layouts, restarts, templates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from recipes.checkpoint.convert import convert
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.fill import load_weights
from recipes.config.data_schema import DataConfig
from recipes.config.schema import ParallelConfig
from recipes.data.chat.prepare import prepare_chats
from recipes.data.chat.template import DEFAULT
from recipes.data.samples.chats import ChatSource
from recipes.data.samples.loader import SEPARATE_FIELDS, collate
from recipes.data.tokenizer import load_tokenizer
from recipes.inference.chat_template import template_of
from recipes.model.build import build_gpt_model
from tests.support.corpus import TinyData
from tests.support.graph_cases import recorded_case
from tests.support.layouts import LAYOUTS
from tests.support.parity import assert_gradients_agree, gradients, llama_names
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case

MESSAGES = [{"role": "user", "content": "Where does Asha live?"}]


@dataclass(frozen=True)
class Chats:
    data: TinyData
    directory: Path

    def overrides(self, name: str, output_dir: Path, *more: str) -> list[str]:
        path = f"{{path:{self.directory}/chats,weight:0.5}}"
        base = self.data.overrides(
            name=name,
            output_dir=str(output_dir),
            model__vocab_size="896",  # A multiple of 128: training counts padded rows, exports have none.
            data__train=f"{{a:{path},b:{path}}}",
            data__valid=f"{{chats:{self.directory}/chats}}",
            data__conversations="true",
            data__reset_attention_mask="true",
            data__seq_length="64",
            trainer__max_steps="4",
            trainer__micro_batch_size="1",
            trainer__global_batch_size="4",
            save_nemo="false",
        )
        return [*base, *more]


@pytest.fixture(scope="module")
def chats(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Chats:
    directory = tmp_path_factory.mktemp("chats")
    lines = (tiny_data.directory / "corpus" / "train.en.jsonl").open(encoding="utf-8")
    words = [json.loads(line)["text"].split() for line in lines]
    records: list[dict[str, object]] = [
        {"prompt": row[0], "completion": " ".join(row[1 : 2 + n % 4])} for n, row in enumerate(words[:60])
    ]
    for row in words[60:80]:
        turns = zip(("user", "assistant", "user", "assistant"), row, strict=False)
        records.append({"messages": [{"role": role, "content": word} for role, word in turns]})
    (directory / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare_chats([directory / "chats.jsonl"], tiny_data.tokenizer, directory / "chats", template=DEFAULT)
    return Chats(tiny_data, directory)


def batch_of(chats: Chats, packing: bool, samples: list[int] | None = None) -> dict[str, Tensor]:
    config = DataConfig(seq_length=64, conversations=True, reset_attention_mask=True, packing=packing)
    source = ChatSource(str(chats.directory / "chats"), load_tokenizer(chats.data.tokenizer), config, seed=1)
    rows = [source[n] for n in range(len(source))] if samples is None else list(map(source.sample, samples))
    return collate(SEPARATE_FIELDS, rows)


@pytest.fixture(scope="module")
def trained(chats: Chats, gloo_pool: GlooPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, so that weights are no longer those of the beginning."""
    directory = tmp_path_factory.mktemp("trained")
    (outcome,) = gloo_pool.run(1, run_case, chats.overrides("run", directory, "save_nemo=true"))
    assert outcome.code == 0, outcome.message
    return directory / "run"


@pytest.mark.usefixtures("engine")
def test_loss_and_gradients_are_those_of_transformers(chats: Chats, trained: Path, tmp_path: Path) -> None:
    """A packed batch here; there the same conversations one by one, with labels -100 where nothing counts."""
    with open_stored_model(trained / "model.nemo") as source:
        gpt = build_gpt_model(source.model, ParallelConfig(), torch.float32).to("cuda")
        load_weights(source, gpt)
        model = source.model
    batch = {name: values.to("cuda") for name, values in batch_of(chats, packing=True).items()}
    starts = (torch.arange(64, device="cuda") - batch["position_ids"]).int()
    losses = gpt(batch["tokens"], batch["position_ids"], starts, labels=batch["labels"])
    loss = (losses * batch["loss_mask"]).sum() / batch["loss_mask"].sum()
    loss.backward()

    convert(trained / "model.nemo", tmp_path / "hf", "hf")
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).to("cuda")
    alone = {name: values.to("cuda") for name, values in batch_of(chats, packing=False).items()}
    assert len(alone["tokens"]) == 80 > 2 * len(batch["tokens"])
    labels = alone["labels"].masked_fill(alone["loss_mask"] == 0, -100)
    expected = llama(alone["tokens"], labels=labels, shift_labels=labels).loss
    expected.backward()
    torch.testing.assert_close(loss.to(expected), expected, rtol=1e-5, atol=1e-5)
    ours = {
        name: gradient[: model.vocab_size] if "embed" in name or "lm_head" in name else gradient
        for name, gradient in llama_names(gradients(gpt), model).items()
    }
    assert_gradients_agree(ours, gradients(llama))


def test_the_template_goes_with_the_model(chats: Chats, trained: Path, tmp_path: Path) -> None:
    for path in (trained, trained / "model.nemo"):
        assert template_of(str(path)).text == DEFAULT
    convert(trained / "model.nemo", tmp_path / "hf", "hf")
    assert template_of(str(tmp_path / "hf")).text == DEFAULT
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert template_of(str(trained)).ids(MESSAGES) == expected
    convert(tmp_path / "hf", tmp_path / "back.nemo", "nemo")
    assert template_of(str(tmp_path / "back.nemo")).text == DEFAULT


@pytest.mark.slow
def test_layouts_restarts_and_ways_to_pack(chats: Chats, gloo_pool: GlooPool, tmp_path: Path) -> None:
    (plain,) = gloo_pool.run(1, run_case, chats.overrides("plain", tmp_path))
    assert plain.code == 0, plain.message
    assert plain.losses[4] < plain.losses[1] and "valid.chats.loss" in plain.metrics[-1]
    for layout in ("tp2_sp", "pp2", "dp2"):
        size, parallel = LAYOUTS[layout]
        outcome = gloo_pool.run(size, run_case, chats.overrides(layout, tmp_path, *parallel))[0]
        assert outcome.losses == pytest.approx(plain.losses, rel=1e-5), layout
    recorded, made = gloo_pool.run(1, recorded_case, chats.overrides("recorded", tmp_path))[0]
    assert (recorded.code, recorded.losses) == (0, plain.losses) and made > 0
    gloo_pool.run(1, run_case, chats.overrides("parts", tmp_path, "trainer.max_steps=2"))
    (rest,) = gloo_pool.run(1, run_case, chats.overrides("parts", tmp_path))
    assert rest.losses == plain.losses
    # One by one, padding is on the right, where nothing sees it: no documents to keep apart.
    padded = ["data.packing=false", "data.reset_attention_mask=false"]
    (alone,) = gloo_pool.run(1, run_case, chats.overrides("alone", tmp_path, *padded))
    apart = chats.overrides("apart", tmp_path, "data.packing=false")
    assert gloo_pool.run(1, run_case, apart)[0].losses == pytest.approx(alone.losses, rel=1e-5)
    (everything,) = gloo_pool.run(1, run_case, chats.overrides("all", tmp_path, "data.loss_on=all"))
    assert everything.code == alone.code == 0 and everything.losses[1] != plain.losses[1]


def test_refusals(chats: Chats, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    def refusal(*more: str) -> str:
        (outcome,) = gloo_pool.run(1, run_case, chats.overrides("x", tmp_path, *more))
        assert outcome.code == 2
        return outcome.message

    assert "packed conversations would see each other" in refusal("data.reset_attention_mask=false")
    assert "holds conversations, and data.conversations=false" in refusal("data.conversations=false")
    text = f"data.train={{en:{{path:{tiny_data.prefix('train_en')}}}}}"
    assert "is not by tools.prepare_chats, and data.conversations=true" in refusal(text)
    prepare_chats(
        [chats.directory / "chats.jsonl"], tiny_data.tokenizer, tmp_path / "other", template=DEFAULT + "\n"
    )
    assert "written by another chat template" in refusal(f"data.valid={{x:{tmp_path}/other}}")
    assert "data.loss_on=al: " in refusal("data.loss_on=al")
    off = ["data.conversations=false", text, f"data.valid={{en:{tiny_data.prefix('valid_en')}}}"]
    assert "data.packing=False: would be ignored" in refusal(*off, "data.packing=false")
