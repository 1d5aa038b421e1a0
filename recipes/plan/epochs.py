"""How often a run reads each source. No torch here, only sidecars and .idx headers."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.phases import plan_phases, samples_drawn
from recipes.config.schema import PretrainConfig
from recipes.data.samples.source_files import are_there, find_prefixes, open_source, shown_path

MANY_EPOCHS = 4.0
"""Up to this many, repeated text is worth nearly as much as new text (Muennighoff et al. 2023, "Scaling
Data-Constrained Language Models", arXiv 2305.16264, abstract)."""


@dataclass(frozen=True)
class SourceUse:
    """What a run takes from one source."""

    name: str
    path: str
    share: float
    """Of the run's samples, 0 to 1."""
    tokens_drawn: int
    """In whole samples of data.seq_length."""
    tokens_available: int | None
    """None: the files do not exist (yet)."""
    epochs: float | None


def source_uses(config: PretrainConfig, total_steps: int) -> list[SourceUse]:
    """What the run takes from each source that it draws from, over all phases.

    Raises:
        UserError: a source's files are damaged, or it holds less than one sample.
    """
    total = total_steps * config.trainer.global_batch_size
    samples: dict[str, int] = {}
    for drawn in samples_drawn(plan_phases(config, total_steps), total):
        for name, count in drawn.items():
            samples[name] = samples.get(name, 0) + count
    return [_use(config, name, count, total) for name, count in samples.items()]


def _use(config: PretrainConfig, name: str, samples: int, total: int) -> SourceUse:
    path, length = config.data.train[name].path, config.data.seq_length
    shown = shown_path(path)
    available = epochs = None
    if are_there(find_prefixes(path)):
        source = open_source(path)
        available = source.tokens
        # How conversations are packed is not known before; as a rule they fill their samples.
        per_epoch = (available - 1) // length if config.data.packing else source.documents
        epochs = samples / per_epoch if per_epoch else None
        if len(source.files) > 1:
            shown += f" ({len(source.files):,} files)"
    return SourceUse(name, shown, samples / total if total else 0.0, samples * length, available, epochs)


def epoch_rows(config: PretrainConfig, total_steps: int) -> list[tuple[str, str]]:
    """The part of the ``dry_run`` text about data: names and values."""
    phases = plan_phases(config, total_steps)
    batch = config.trainer.global_batch_size
    rows = []
    for number, phase in enumerate(phases if config.data.phases else []):
        total = sum(phase.weights.values())
        blend = ", ".join(f"{name} {100 * weight / total:.2f} %" for name, weight in phase.weights.items())
        last = min(phase.end // batch, total_steps)
        steps = f"steps {phase.first // batch + 1:,} to {last:,}"
        reached = phase.first < total_steps * batch
        rows.append((f"phase {number}", f"{steps if reached else 'not reached'}: {blend}"))
    for use in source_uses(config, total_steps):
        drawn = f"{use.tokens_drawn:,} tokens, {_epochs_in_words(use)}"
        rows.append((f"source {use.name}", f"{100 * use.share:.2f} %  {use.path}  {drawn}"))
        if use.epochs is not None and use.epochs > MANY_EPOCHS:
            warning = (
                f"{use.name} is read {use.epochs:,.1f} times; beyond about {MANY_EPOCHS:g} epochs repeated "
            )
            rows.append(("  warning", f"{warning}text is worth less than new (arXiv 2305.16264)"))
    return rows


def _epochs_in_words(use: SourceUse) -> str:
    if use.tokens_available is None:
        return "data not found, epochs unknown"
    if use.epochs is None:
        return f"holds {use.tokens_available:,}: less than one sample"
    return f"{use.epochs:,.2f} epochs of {use.tokens_available:,}"
