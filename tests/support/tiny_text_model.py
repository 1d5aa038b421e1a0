"""A random transformers Llama as a TextGenerator, with a tokenizer trained on the benchmark fixture."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.data.benchmark_mirror import read_manifest, split_file, write_index
from recipes.data.tokenizer.hugging_face import HuggingFaceTokenizer
from recipes.inference.text_generator import TextGenerator
from tests.support.paths import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "benchmarks" / "mirror"
BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(mirror: Path = FIXTURE, vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the mirror's rows."""
    rows = [parquet.read_table(split_file(mirror, entry)).to_pylist() for entry in read_manifest(mirror)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS, EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    letters = [" A B C D"] * 1000  # answers are single tokens, as in any real tokenizer
    tokenizer.train_from_iterator([*letters, *(json.dumps(row, ensure_ascii=False) for row in rows)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def random_llama(
    vocab_size: int, seed: int = 0, max_length: int = 512, loud: Sequence[int] = ()
) -> LlamaForCausalLM:
    """Two layers with weights large enough for decided predictions; `loud` ids are predicted often."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    llama = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        llama.lm_head.weight[list(loud)] *= 3
    return llama


def text_tokenizer(tokenizer: PreTrainedTokenizerFast) -> HuggingFaceTokenizer:
    """The same tokenizer as the recipes read it from a directory."""
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    contents = {
        "tokenizer.json": tokenizer.backend_tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(names).encode(),
    }
    return HuggingFaceTokenizer(contents, "tiny")


class LlamaTextModel(TextGenerator):
    """A transformers Llama; counts its forward passes over whole texts."""

    def __init__(
        self, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str = "tiny"
    ) -> None:
        super().__init__(
            text_tokenizer(tokenizer),
            torch.device("cpu"),
            name=name,
            max_sequence_length=llama.config.max_position_embeddings,
            document_start_id=None,
        )
        self.llama = llama
        self.batches: list[torch.Size] = []

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        self.batches.append(tokens.shape)
        return self.llama(tokens).logits


def build_mirror(directory: Path, mmlu_subjects: Sequence[str] = ()) -> Path:
    """A writable copy of the fixture. It holds one MMLU subject, whose rows stand in for the other 56."""
    mirror = Path(shutil.copytree(FIXTURE, directory))
    manifest = read_manifest(mirror)
    for subject in mmlu_subjects:
        for entry in [entry for entry in manifest if "/abstract_algebra/" in entry]:
            copy = entry.replace("abstract_algebra", subject)
            if copy == entry:
                continue
            split_file(mirror, copy).parent.mkdir(exist_ok=True)
            shutil.copy(split_file(mirror, entry), split_file(mirror, copy))
            manifest[copy] = {**manifest[entry], "tasks": [f"mmlu_{subject}"]}
    write_index(mirror, manifest)
    return mirror


def mmlu_subjects() -> list[str]:
    """The names of lm-eval's MMLU data sets, as its own task files spell them."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    return sorted(path.stem.removeprefix("mmlu_") for path in folder.glob("mmlu_*.yaml"))
