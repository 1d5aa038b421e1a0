"""A small generated corpus, tokenized with the project's own tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipes.data.corpus.write import make_corpus
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer.train import train_tokenizer


@dataclass(frozen=True)
class TinyData:
    directory: Path
    tokenizer: Path

    def prefix(self, name: str) -> str:
        return str(self.directory / name)

    def overrides(self, **changes: str) -> list[str]:
        """Settings of recipes.pretrain for a model and run of seconds."""
        settings = {
            "name": "tiny",
            "model.num_layers": "4",
            "model.hidden_size": "64",
            "model.ffn_hidden_size": "128",
            "model.vocab_size": "1000",
            "model.max_position_embeddings": "64",
            "tokenizer.model": str(self.tokenizer),
            "data.seq_length": "32",
            "data.train": f"{{en:{{path:{self.prefix('train_en')},weight:0.75}},"
            f"hi:{{path:{self.prefix('train_hi')},weight:0.25}}}}",
            "data.valid": f"{{en:{self.prefix('valid_en')},hi:{self.prefix('valid_hi')}}}",
            "optim.lr_warmup_steps": "2",
            "optim.lr_decay_steps": "20",
            "trainer.max_steps": "20",
            "trainer.micro_batch_size": "2",
            "trainer.global_batch_size": "8",
            "trainer.log_every_n_steps": "1",
            "trainer.limit_val_batches": "2",
            "trainer.num_threads": "1",
        }
        settings |= {key.replace("__", "."): value for key, value in changes.items()}
        return [f"{key}={value}" for key, value in settings.items()]


def make_tiny_data(directory: Path) -> TinyData:
    """Writes, tokenizes and indexes a corpus of about 200 kB."""
    corpus = directory / "corpus"
    make_corpus(corpus, size=200_000, seed=1, world_seed=1, people=16, force=False)
    prefix = directory / "tokenizer"
    inputs = [corpus / f"train.{language}.jsonl" for language in ("en", "hi")]
    train_tokenizer(inputs, prefix, vocab_size=800, model_type="unigram")
    for part in ("train", "valid"):
        for language in ("en", "hi"):
            preprocess(
                [corpus / f"{part}.{language}.jsonl"], f"{prefix}.model", directory / f"{part}_{language}"
            )
    return TinyData(directory, Path(f"{prefix}.model"))
