"""The stages of a cleaning job: pipelines of datatrove blocks, one after the other.

A stage ends where all documents must have been seen before one can be judged: duplicates are searched for in
the whole input. Between stages documents are stored in work/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.decont import NGramsDecontFilter
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.stats import DocStats
from datatrove.pipeline.writers import JsonlWriter

from recipes.config.clean_schema import CleanConfig
from recipes.data.clean.cleaning_page import write_cleaning_page
from recipes.data.clean.contamination import HASHES, NORMALISATION, n_gram_config, write_index
from recipes.data.clean.languages import Identifier
from recipes.data.clean.pipeline_blocks import (
    REASON,
    LanguageFilter,
    ListFilter,
    MaskPii,
    QualityFilter,
    ReadPieces,
    ReadWork,
    ReasonFilter,
    Tally,
    as_record,
    as_work,
)
from recipes.data.clean.plan import Plan, filters
from recipes.data.clean.summary import REPORT, summarize
from recipes.data.clean.word_boundaries import ComparedWords
from recipes.files import atomic_write

_BUFFERED = 1000
"""Signatures read at a time from each task's file."""


@dataclass(frozen=True)
class Stage:
    """What one executor does; a stage begins when the one before it is done."""

    name: str
    pipeline: list[PipelineStep]
    tasks: int


def build_stages(config: CleanConfig, plan: Plan) -> list[Stage]:
    """All stages of a job, in order."""
    return list(_Builder(config, plan).stages())


class _Builder:
    def __init__(self, config: CleanConfig, plan: Plan) -> None:
        self.config, self.plan = config, plan
        self.out = Path(config.output_dir).resolve()  # Slurm's jobs may have another working directory.
        self.work = self.out / "work"
        self.filters = filters(config)

    def stages(self) -> Iterator[Stage]:
        config, tasks = self.config, self.config.tasks
        if "decontamination" in self.filters:
            yield Stage("benchmark_index", [BenchmarkIndex(config, self.work / "benchmarks")], 1)
        dropped = self.dropped("read")
        pipeline = [
            ReadPieces(self.plan, dict(config.data.sources), dropped, self.meter("filter")),
            Tally("read"),
        ]
        if "language" in self.filters:
            identifier = Identifier(config.language.min_script_fraction, config.language.fasttext_model)
            pipeline += [
                LanguageFilter(identifier, self.dropped("language")),
                Tally("language"),
            ]
        if "quality" in self.filters:
            pipeline += [
                QualityFilter(config.quality, self.dropped("quality")),
                Tally("quality"),
            ]
        name = "filter"
        if "exact_dedup" in self.filters:
            exact = ExactDedupConfig(content_getter=whole_text, hash_config=HASHES)
            signatures, duplicates = self.work / "exact_signatures", self.work / "exact_duplicates"
            pipeline += [self.to_work("filtered"), ExactDedupSignature(str(signatures), exact)]
            yield Stage(name, pipeline, tasks)
            yield Stage(
                "exact_find",
                [ExactFindDedups(str(signatures), str(duplicates), exact, lines_to_buffer=_BUFFERED)],
                1,
            )
            name = "exact_drop"
            pipeline = [
                ReadWork(self.work / "filtered", self.meter(name)),
                ExactDedupFilter(str(duplicates), exact, self.dropped("exact_dedup", "duplicate")),
                Tally("exact_dedup"),
            ]
        if "minhash" in self.filters:
            minhash = minhash_config(config)
            folders = [str(self.work / f"minhash_{part}") for part in ("signatures", "buckets", "duplicates")]
            signature = MinhashDedupSignature(folders[0], minhash, language=ComparedWords())
            yield Stage(name, [*pipeline, self.to_work("unique"), signature], tasks)
            buckets = MinhashDedupBuckets(folders[0], folders[1], config=minhash, lines_to_buffer=_BUFFERED)
            yield Stage("minhash_buckets", [buckets], minhash.num_buckets)
            yield Stage("minhash_cluster", [MinhashDedupCluster(folders[1], folders[2], minhash)], 1)
            name = "finish"
            pipeline = [
                ReadWork(self.work / "unique", self.meter(name)),
                MinhashDedupFilter(folders[2], self.dropped("minhash", "duplicate")),
                Tally("minhash"),
            ]
        yield Stage(name, [*pipeline, *self.last_steps()], tasks)
        yield Stage("report", [Report(config)], 1)

    def last_steps(self) -> Iterator[PipelineStep]:
        """Lists and benchmarks are compared with the original text; masking comes after them."""
        config = self.config
        if "lists" in self.filters:
            yield ListFilter(config.lists, self.dropped("lists"))
            yield Tally("lists")
        if "decontamination" in self.filters:
            n_grams = n_gram_config(config.decontamination.n_grams)
            writer = self.dropped("decontamination")
            yield Decontamination(str(self.work / "benchmarks"), n_grams, writer, ComparedWords())
            yield Tally("decontamination")
        if config.pii.enabled:
            yield MaskPii(config.pii.kinds)
        name = "${clean_source}/${rank}.jsonl"
        yield JsonlWriter(str(self.out / "kept"), name, compression=None, adapter=as_record)
        yield Tally("kept")
        if config.stats.enabled:
            # Grouping by site, the default, needs a url, which most documents do not have.
            yield DocStats(str(self.out / "stats"), groups_to_compute=["summary", "histogram"])

    def dropped(self, name: str, directory: str = "${" + REASON + "}") -> JsonlWriter:
        """Where the documents that a filter drops go: a directory per reason, a file per task."""
        folder = str(self.out / "dropped" / name)
        return JsonlWriter(folder, directory + "/${rank}.jsonl", compression=None, adapter=as_record)

    def to_work(self, name: str) -> JsonlWriter:
        return JsonlWriter(str(self.work / name), "${rank}.jsonl", compression=None, adapter=as_work)

    def meter(self, stage: str) -> Path:
        return self.out / "logs" / stage / "progress"


def whole_text(document: Document) -> str:
    """What exact duplicates have in common: the whole text."""
    text: str = document.text
    return text


def minhash_config(config: CleanConfig) -> MinhashConfig:
    """datatrove's configuration, with a normalisation that leaves Devanagari intact."""
    return MinhashConfig(
        n_grams=config.minhash.n_grams,
        num_buckets=config.minhash.num_buckets,
        hashes_per_bucket=config.minhash.hashes_per_bucket,
        seed=config.minhash.seed,
        norm_config=NORMALISATION,
        hash_config=HASHES,
    )


class Decontamination(NGramsDecontFilter, ReasonFilter):
    """datatrove's filter, with the benchmark that shares an n-gram with the document as the reason."""

    def __init__(self, index: str, n_grams: Any, dropped: JsonlWriter, words: ComparedWords) -> None:
        super().__init__(index, n_grams, dropped, language=words)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if super().filter(doc) is True:
            return True
        benchmark: str = doc.metadata["contaminated_task"]
        return False, benchmark.replace("/", "__")


class BenchmarkIndex(PipelineStep):
    """Writes the n-grams of the benchmark mirror."""

    type, name = "🦠 - DECONT", "index of a mirror"

    def __init__(self, config: CleanConfig, folder: Path) -> None:
        super().__init__()
        self.config, self.folder = config, folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        for entry, number in write_index(self.config.decontamination, self.folder).items():
            self.stat_update(f"n_grams||{entry}", value=number)


class Report(PipelineStep):
    """Sums up the statistics of all stages: report.json and report.html."""

    type, name = "📊 - REPORT", "summary"

    def __init__(self, config: CleanConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        out = Path(self.config.output_dir).resolve()
        summary = summarize(self.config, out / "logs")
        write_cleaning_page(summary, out, self.config.examples_per_reason)
        # Last: a result without report.json is not whole.
        with atomic_write(out / REPORT, "w") as stream:
            json.dump(summary, stream, indent=1, ensure_ascii=False)
