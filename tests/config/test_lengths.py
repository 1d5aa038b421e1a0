"""The run's length, and the lengths of the learning rate's parts, in optimizer steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recipes.config.lengths import Clock, schedule_lengths, total_steps
from recipes.config.schema import OptimConfig
from recipes.config.timeline import even_timeline


def test_tokens_are_rounded_up_to_steps() -> None:
    optim = OptimConfig(
        lr=1.0, lr_warmup_tokens=3001, lr_decay_tokens=20_000, lr_wsd_decay_tokens=1, lr_decay_style="WSD"
    )
    lengths = schedule_lengths(optim, Clock(even_timeline(10, 1, 100)), 500)
    assert (lengths.warmup, lengths.decay, lengths.wsd_decay) == (4, 20, 1)


@given(
    steps=st.none() | st.integers(0, 10**9),
    tokens=st.none() | st.integers(1, 10**15),
    batch=st.integers(1, 10**4),
)
def test_total_steps(steps: int | None, tokens: int | None, batch: int) -> None:
    """The limit that is reached first ends the run; it passes max_tokens by less than a step."""
    if steps is None and tokens is None:
        return
    trainer = SimpleNamespace(max_steps=steps, max_tokens=tokens, global_batch_size=batch, micro_batch_size=1)
    config: Any = SimpleNamespace(trainer=trainer, data=SimpleNamespace(seq_length=128), phases=[])
    total = total_steps(config)
    per_step = batch * 128
    by_tokens = tokens is not None and (total - 1) * per_step < tokens <= total * per_step
    if steps is None:
        assert by_tokens
    elif tokens is None:
        assert total == steps
    else:
        assert total <= steps and (total == steps or by_tokens)
        assert total * per_step < tokens + per_step
