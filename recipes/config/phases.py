"""Which blend applies when: the data section's weights, tokens and phases as sample counts. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from recipes.checks import not_negative, positive, refuse
from recipes.config.data_schema import DataConfig
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError


class Share(Protocol):
    """What a source contributes to the whole run (SourceConfig) or to a phase (ShareConfig)."""

    weight: float
    tokens: int | None


@dataclass(frozen=True)
class Phase:
    """A part of the run with one blend."""

    first: int
    """Number of its first sample in the run."""
    end: int
    """Number of the first sample after it, which may lie beyond the end of the run."""
    weights: dict[str, float]
    """Source -> share of the samples, relative to the others; sources without a share are left out."""


def plan_phases(config: PretrainConfig, total_steps: int) -> list[Phase]:
    """The phases of a run, in order; a single phase if the configuration names none.

    A phase keeps its blend when the run is made longer or shorter, except for a last phase with sources given
    in tokens: its length depends on the run.

    Raises:
        UserError: a setting cannot be satisfied, or would be ignored.
    """
    data = config.data
    _check_shares("data.train", data.train)
    if not data.phases:
        if data.train and not any(source.weight > 0 for source in data.train.values()):
            raise UserError("data.train: every weight is 0; give at least one source a positive weight")
        end = total_steps * config.trainer.global_batch_size
        return [Phase(0, end, _weights("data.train", data.train, end, config))] if data.train else []
    _check_phases(data)
    phases: list[Phase] = []
    begin = 0
    for number, phase in enumerate(data.phases):
        key = f"data.phases[{number}]"
        if number == len(data.phases) - 1:
            end = max(begin, total_steps * config.trainer.global_batch_size)
        else:
            end = _steps_until(key, phase.until_step, phase.until_tokens, config)
            end *= config.trainer.global_batch_size
            if end <= begin:
                refuse(key, f"until sample {end}", f"must end after the phase before it, at sample {begin}")
        phases.append(Phase(begin, end, _weights(f"{key}.train", phase.train, end - begin, config)))
        begin = end
    return phases


def samples_drawn(phases: list[Phase], total_samples: int) -> list[dict[str, int]]:
    """For each phase, approximately how many samples each source contributes within the run."""
    drawn = []
    for phase in phases:
        samples = max(0, min(phase.end, total_samples) - phase.first)
        total = sum(phase.weights.values())
        drawn.append({name: round(samples * weight / total) for name, weight in phase.weights.items()})
    return drawn


def sources_in_use(data: DataConfig) -> list[str]:
    """Names of the sources that some phase draws from."""
    blends: list[Mapping[str, Share]] = [phase.train for phase in data.phases] or [data.train]
    used = {name for blend in blends for name, share in blend.items() if share.weight > 0}
    return [name for name in data.train if name in used]


def _check_shares(key: str, shares: Mapping[str, Share]) -> None:
    for name, share in shares.items():
        not_negative(f"{key}.{name}.weight", share.weight)
        if share.tokens is None:
            continue
        positive(f"{key}.{name}.tokens", share.tokens)
        if share.weight != 1.0:
            refuse(
                f"{key}.{name}.weight", share.weight, "would be ignored: tokens decide; leave one of both out"
            )


def _check_phases(data: DataConfig) -> None:
    for name, source in data.train.items():
        if source.weight != 1.0 or source.tokens is not None:
            what = "weight" if source.tokens is None else "tokens"
            refuse(f"data.train.{name}.{what}", getattr(source, what), "would be ignored: data.phases decide")
    for number, phase in enumerate(data.phases):
        key = f"data.phases[{number}]"
        _check_shares(f"{key}.train", phase.train)
        for name in phase.train:
            if name not in data.train:
                refuse(f"{key}.train", name, f"is no source: choose of data.train: {', '.join(data.train)}")
        if not any(share.weight > 0 for share in phase.train.values()):
            refuse(f"{key}.train", dict(phase.train), "give at least one source a positive weight")
        is_last = number == len(data.phases) - 1
        ends = [name for name in ("until_step", "until_tokens") if getattr(phase, name) is not None]
        if is_last and ends:
            refuse(
                f"{key}.{ends[0]}",
                getattr(phase, ends[0]),
                "the last phase lasts to the run's end; remove it",
            )
        if not is_last and len(ends) != 1:
            refuse(key, ends or "no end", "give every phase but the last one until_step or until_tokens")
    unused = set(data.train) - set(sources_in_use(data))
    if unused:
        refuse(
            "data.train", sorted(unused)[0], "no phase draws from it: remove it, or give it a weight in one"
        )


def _steps_until(key: str, step: int | None, tokens: int | None, config: PretrainConfig) -> int:
    """The phase's end in whole steps; tokens are rounded up."""
    if step is not None:
        positive(f"{key}.until_step", step)
        return step
    assert tokens is not None
    positive(f"{key}.until_tokens", tokens)
    return -(-tokens // _tokens_per_step(config))


def _tokens_per_step(config: PretrainConfig) -> int:
    return config.trainer.global_batch_size * config.data.seq_length


def _weights(key: str, shares: Mapping[str, Share], samples: int, config: PretrainConfig) -> dict[str, float]:
    """Weights; where tokens are given, they are chosen to yield these over ``samples``."""
    used = {name: share for name, share in shares.items() if share.weight > 0}
    counted = {name: share.tokens for name, share in used.items() if share.tokens is not None}
    if not counted or samples <= 0:
        return {name: share.tokens or share.weight for name, share in used.items()}
    available = samples * config.data.seq_length
    requested = sum(counted.values())
    sums = f"tokens add up to {requested:,}, the run or phase has {available:,}"
    if len(counted) == len(used):
        # The run's length is whole steps, which round numbers of tokens need not be.
        if abs(requested - available) >= _tokens_per_step(config):
            raise UserError(
                f"{key}: {sums}: change them or its length (trainer.max_tokens={requested:,}), or give one "
                "source a weight instead, for what is left"
            )
        return dict(counted)
    if requested >= available:
        raise UserError(f"{key}: {sums}: nothing is left for the sources with weights; lower the tokens")
    others = {name: share.weight for name, share in used.items() if name not in counted}
    unit = (available - requested) / sum(others.values())
    return {name: counted[name] if name in counted else unit * others[name] for name in used}
