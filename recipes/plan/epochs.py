"""How often a run reads each source. No torch here, only sidecars and .idx headers."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.lengths import total_steps
from recipes.config.phases import plan_phases, samples_drawn
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
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
    """Of the run's tokens, 0 to 1."""
    tokens_drawn: int
    """In whole samples."""
    tokens_available: int | None
    """None: the files do not exist (yet)."""
    epochs: float | None


def source_uses(config: PretrainConfig) -> list[SourceUse]:
    """What the run takes from each source that it draws from, over all phases.

    Raises:
        UserError: a source's files are damaged, or it holds less than one sample.
    """
    timeline, steps = timeline_of(config), total_steps(config)
    phases = plan_phases(config)
    samples: dict[str, dict[int, int]] = {}
    for phase, drawn in zip(phases, samples_drawn(phases, timeline.samples(steps)), strict=True):
        for name, count in drawn.items():
            by_length = samples.setdefault(name, {})
            by_length[phase.seq_length] = by_length.get(phase.seq_length, 0) + count
    return [_use(config, name, by_length, timeline.tokens(steps)) for name, by_length in samples.items()]


def _use(config: PretrainConfig, name: str, samples: dict[int, int], total: int) -> SourceUse:
    """``samples`` by sequence length; ``total``: tokens of the run."""
    path = config.data.train[name].path
    shown, tokens = shown_path(path), sum(length * count for length, count in samples.items())
    available = epochs = None
    if are_there(find_prefixes(path)):
        source = open_source(path)
        available = source.tokens
        # How conversations are packed is not known before; as a rule they fill their samples.
        whole = config.data.packing
        per_epoch = {length: (available - 1) // length if whole else source.documents for length in samples}
        if all(per_epoch.values()):
            epochs = sum(count / per_epoch[length] for length, count in samples.items())
        if len(source.files) > 1:
            shown += f" ({len(source.files):,} files)"
    return SourceUse(name, shown, tokens / total if total else 0.0, tokens, available, epochs)


def epoch_rows(config: PretrainConfig) -> list[tuple[str, str]]:
    """The part of the ``dry_run`` text about data: names and values."""
    rows = []
    for use in source_uses(config):
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
