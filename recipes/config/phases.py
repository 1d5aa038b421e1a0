"""Which blend applies when: the weights and tokens of data.train and of phases, over a run's samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from recipes.checks import not_negative, positive, refuse
from recipes.config.lengths import total_steps
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.rounding import sum_in_order


class Share(Protocol):
    """What a source contributes to the whole run (SourceConfig) or to a phase (ShareConfig)."""

    weight: float
    tokens: int | None

    @property
    def loss_weight(self) -> float | None: ...


@dataclass(frozen=True)
class Phase:
    """A part of the run with one blend."""

    first: int
    """Number of its first sample in the run."""
    end: int
    """Number of the first sample after it, which may lie beyond the end of the run."""
    weights: dict[str, float]
    """Source -> share of the samples, relative to the others; sources without a share are left out."""
    seq_length: int
    """Tokens per sample."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Source -> what the loss of its tokens is multiplied by; 1 for others."""


def plan_phases(config: PretrainConfig) -> list[Phase]:
    """The phases of a run, in order; a single phase if the configuration names none.

    A phase keeps its blend when the run is made longer or shorter, except for a last phase with sources given
    in tokens: its length depends on the run.

    Raises:
        UserError: a setting cannot be satisfied, or would be ignored.
    """
    _check_blends(config)
    timeline, steps = timeline_of(config), total_steps(config)
    borders = [timeline.first_of(number).first_step for number in range(max(1, len(config.phases)))]
    borders.append(max(borders[-1], steps))
    if not config.data.train:
        return []

    def weights(key: str, shares: Mapping[str, Share], begin: int, end: int) -> dict[str, float]:
        # The run's length is whole steps, which round numbers of tokens need not be.
        step = timeline.at(max(begin, end - 1)).tokens_per_step
        return _weights(key, shares, timeline.tokens(end) - timeline.tokens(begin), step)

    own = [phase.train for phase in config.phases] or [{}]
    of_run = {} if all(own) else weights("data.train", config.data.train, 0, borders[-1])
    return [
        Phase(
            timeline.samples(begin),
            timeline.samples(end),
            weights(f"phases[{number}].train", own[number], begin, end) if own[number] else of_run,
            timeline.first_of(number).seq_length,
            _loss_weights(config, own[number] or config.data.train),
        )
        for number, (begin, end) in enumerate(pairwise(borders))
    ]


def model_in(config: PretrainConfig, phase: int) -> ModelConfig:
    """The model as it is in one of the phases; 0 if there are none."""
    base = config.phases[phase].rotary_base if config.phases else None
    return config.model if base is None else replace(config.model, rotary_base=base)


def model_after(config: PretrainConfig, steps: int) -> ModelConfig:
    """The model that ``steps`` optimizer steps have made: on a border, that of the phase that ends there."""
    return model_in(config, timeline_of(config).at(max(0, steps - 1)).phase)


def samples_drawn(phases: list[Phase], total_samples: int) -> list[dict[str, int]]:
    """For each phase, approximately how many samples each source contributes within the run."""
    drawn = []
    for phase in phases:
        samples = max(0, min(phase.end, total_samples) - phase.first)
        total = sum(phase.weights.values())
        drawn.append({name: round(samples * weight / total) for name, weight in phase.weights.items()})
    return drawn


def sources_in_use(config: PretrainConfig) -> list[str]:
    """Names of the sources that some phase draws from."""
    blends: list[Mapping[str, Share]] = [phase.train or config.data.train for phase in config.phases]
    used = {
        name for blend in blends or [config.data.train] for name, share in blend.items() if share.weight > 0
    }
    return [name for name in config.data.train if name in used]


def _loss_weights(config: PretrainConfig, shares: Mapping[str, Share]) -> dict[str, float]:
    """Those that are not 1."""
    found = {}
    for name, share in shares.items():
        weight = share.loss_weight
        found[name] = config.data.train[name].loss_weight if weight is None else weight
    return {name: weight for name, weight in found.items() if weight != 1.0}


def _check_loss_weights(key: str, shares: Mapping[str, Share], config: PretrainConfig) -> None:
    for name, share in shares.items():
        if share.loss_weight is not None:
            not_negative(f"{key}.{name}.loss_weight", share.loss_weight)
    weights = _loss_weights(config, shares)
    used = [name for name, share in shares.items() if share.weight > 0]
    if used and not any(weights.get(name, 1.0) for name in used):
        raise UserError(f"{key}: every loss_weight is 0: nothing would be learned")


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
    if shares and not any(share.weight > 0 for share in shares.values()):
        raise UserError(f"{key}: every weight is 0; give at least one source a positive weight")


def _check_blends(config: PretrainConfig) -> None:
    train, own = config.data.train, [phase.train for phase in config.phases]
    for number, shares in enumerate(own):
        key = f"phases[{number}].train"
        _check_shares(key, shares)
        for name in shares:
            if name not in train:
                refuse(key, name, f"is no source: choose of data.train: {', '.join(train)}")
        _check_loss_weights(key, shares, config)
    if not own or not all(own):
        _check_shares("data.train", train)
        _check_loss_weights("data.train", train, config)
    for name, source in train.items():
        key = f"data.train.{name}"
        not_negative(f"{key}.loss_weight", source.loss_weight)
        if source.tokens is not None and any(own):
            refuse(f"{key}.tokens", source.tokens, "would be ignored: phases have a train of their own")
        if source.weight != 1.0 and own and all(own):
            refuse(f"{key}.weight", source.weight, "would be ignored: every phase has its own train; set 1")
    unused = set(train) - set(sources_in_use(config))
    if own and all(own) and unused:
        refuse(
            "data.train", sorted(unused)[0], "no phase draws from it: remove it, or give it a weight in one"
        )


def _weights(key: str, shares: Mapping[str, Share], available: int, step: int) -> dict[str, float]:
    """Weights; where tokens are given, they are chosen to yield these of the ``available`` ones.

    ``step``: tokens of an optimizer step, by less than which a sum may miss them.
    """
    used = {name: share for name, share in shares.items() if share.weight > 0}
    counted = {name: share.tokens for name, share in used.items() if share.tokens is not None}
    if not counted or available <= 0:
        return {name: share.tokens or share.weight for name, share in used.items()}
    requested = sum(counted.values())
    sums = f"tokens add up to {requested:,}, the run or phase has {available:,}"
    if len(counted) == len(used):
        if abs(requested - available) >= step:
            raise UserError(
                f"{key}: {sums}: change them or its length (trainer.max_tokens={requested:,}), or give one "
                "source a weight instead, for what is left"
            )
        return dict(counted)
    if requested >= available:
        raise UserError(f"{key}: {sums}: nothing is left for the sources with weights; lower the tokens")
    others = {name: share.weight for name, share in used.items() if name not in counted}
    unit = (available - requested) / sum_in_order(others.values())
    return {name: counted[name] if name in counted else unit * others[name] for name in used}
