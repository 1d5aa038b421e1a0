"""Refusals of settings that cannot work, before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

from recipes.checks import not_negative, of_a_machine, one_of, positive, refuse
from recipes.config.clean_schema import LANGUAGES, PII_KINDS, CleanConfig, GopherConfig
from recipes.errors import UserError

_FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
_NEEDED = ("datatrove", "orjson", "indicnlp", "py3langid", "fasttext", "tldextract")


def validate_clean(config: CleanConfig) -> None:
    """Checks every setting; whether the input can be read is checked when the job is planned.

    Raises:
        UserError: a setting cannot work, or an optional package is missing.
    """
    _check_sources(config)
    if not 0 < config.language.min_script_fraction <= 1:
        refuse("language.min_script_fraction", config.language.min_script_fraction, "must lie in (0, 1]")
    if config.language.fasttext_model is not None:
        if not config.language.enabled:
            refuse("language.fasttext_model", config.language.fasttext_model, "needs language.enabled=true")
        _file("language.fasttext_model", config.language.fasttext_model)
        _check_fasttext(config.language.fasttext_model)
    _check_quality(config)
    for key in ("n_grams", "num_buckets", "hashes_per_bucket"):
        positive(f"minhash.{key}", getattr(config.minhash, key))
    not_negative("minhash.seed", config.minhash.seed)
    _check_lists(config)
    _check_decontamination(config)
    for kind in config.pii.kinds:
        one_of("pii.kinds", kind, PII_KINDS)
    if config.pii.enabled and not config.pii.kinds:
        refuse("pii.kinds", [], "name kinds, or turn masking off with pii.enabled=false")
    _check_execution(config)
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed: pip install -e '.[data]'")


def _check_sources(config: CleanConfig) -> None:
    if not config.data.sources:
        refuse("data.sources", "{}", "choose data=NAME (conf/data/) or give 'data.sources={en: {path: ...}}'")
    for name, source in config.data.sources.items():
        key = f"data.sources.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            refuse("data.sources", name, "a source's name becomes a directory: letters, digits, _ . -")
        one_of(f"{key}.language", source.language, LANGUAGES)
        if not source.path:
            refuse(f"{key}.path", [], "give at least one file, directory or pattern")


def _check_fasttext(path: str) -> None:
    with Path(path).open("rb") as stream:
        if stream.read(4) != _FASTTEXT_MAGIC:
            refuse("language.fasttext_model", path, "is not a fastText model (.bin or .ftz)")


def _check_quality(config: CleanConfig) -> None:
    if not config.quality.enabled:
        return
    for language in config.quality.gopher:
        one_of("quality.gopher", language, LANGUAGES)
    for name, source in config.data.sources.items():
        if source.language not in config.quality.gopher:
            refuse(
                f"data.sources.{name}.language", source.language, "quality.gopher has no thresholds for it"
            )
    for language, gopher in config.quality.gopher.items():
        _check_gopher(f"quality.gopher.{language}", gopher)


def _check_gopher(key: str, gopher: GopherConfig) -> None:
    # Shares of the words of an empty document would be divided by zero.
    positive(f"{key}.min_doc_words", gopher.min_doc_words)
    if gopher.max_doc_words < gopher.min_doc_words:
        refuse(f"{key}.max_doc_words", gopher.max_doc_words, "must be at least min_doc_words")
    if gopher.max_avg_word_length < gopher.min_avg_word_length:
        refuse(
            f"{key}.max_avg_word_length", gopher.max_avg_word_length, "must be at least min_avg_word_length"
        )
    for name in (
        "max_symbol_word_ratio",
        "max_bullet_lines_ratio",
        "max_ellipsis_lines_ratio",
        "min_alpha_words_ratio",
        "min_sentence_end_lines",
    ):
        if not 0 <= getattr(gopher, name) <= 1:
            refuse(f"{key}.{name}", getattr(gopher, name), "must lie between 0 and 1")
    not_negative(f"{key}.min_stop_words", gopher.min_stop_words)
    # datatrove takes an empty list for "use my own English one".
    if gopher.min_stop_words > len(set(gopher.stop_words)):
        refuse(f"{key}.min_stop_words", gopher.min_stop_words, f"{key}.stop_words has fewer words than that")


def _check_lists(config: CleanConfig) -> None:
    for name, words in config.lists.words.items():
        _file(f"lists.words.{name}.path", words.path)
        positive(f"lists.words.{name}.min_matches", words.min_matches)
    for name, path in config.lists.hashes.items():
        _file(f"lists.hashes.{name}", path)
        if name in config.lists.words:
            refuse("lists.hashes", name, "a list of words has this name already")
    for name in (*config.lists.words, *config.lists.hashes):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            refuse("lists", name, "a list's name becomes a directory: letters, digits, _ . -")
    from recipes.data.clean.blocklists import read_hashes, read_words

    # The lists are used in the last stage: after days of work it would be too late to find a bad line.
    read_words({name: words.path for name, words in config.lists.words.items()})
    read_hashes(config.lists.hashes)


def _check_decontamination(config: CleanConfig) -> None:
    decontamination = config.decontamination
    positive("decontamination.n_grams", decontamination.n_grams)
    if decontamination.mirror is not None and not (Path(decontamination.mirror) / "manifest.json").is_file():
        fix = "no benchmark mirror (no manifest.json): tools.prefetch_benchmarks makes one"
        refuse("decontamination.mirror", decontamination.mirror, fix)
    if decontamination.mirror is not None and not decontamination.splits:
        refuse("decontamination.splits", [], "name splits, or turn it off: decontamination.enabled=false")


def _check_execution(config: CleanConfig) -> None:
    positive("tasks", config.tasks)
    not_negative("examples_per_reason", config.examples_per_reason)
    if config.workers is not None:
        of_a_machine("workers", config.workers)
    one_of("executor", config.executor, ("local", "slurm"))
    if config.executor == "slurm" and not config.dry_run:
        if config.slurm.partition is None:
            refuse("slurm.partition", None, "executor=slurm needs it")
        if shutil.which("sbatch") is None:
            refuse("executor", "slurm", "sbatch is not on PATH: submit from a login node, or executor=local")
    for key in ("cpus_per_task", "mem_per_cpu_gb"):
        positive(f"slurm.{key}", getattr(config.slurm, key))


def _file(key: str, path: str) -> None:
    if not Path(path).is_file():
        refuse(key, path, "no such file")
