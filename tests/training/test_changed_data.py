"""Data written again under the same prefix, and data whose tokenizer nobody knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from recipes.data.samples.content import content_key, largest_id
from recipes.data.samples.indexed import IndexedWriter, check_prefix
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case


def copy(data: TinyData, name: str, target: Path) -> None:
    """A source of the tiny data under the prefix ``target``."""
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(data.prefix(name) + suffix, f"{target}{suffix}")


def foreign(prefix: Path, largest: int, documents: int = 40) -> Path:
    """A .bin/.idx as Megatron's own tool writes it: no .json beside it."""
    random = np.random.default_rng(1)
    tokens = random.integers(0, 700, documents * 50).astype(np.uint16)
    tokens[len(tokens) // 2] = largest
    with (
        prefix.with_suffix(".bin").open("wb") as bin_file,
        prefix.with_suffix(".idx").open("w+b") as idx_file,
    ):
        writer = IndexedWriter(bin_file, idx_file, "uint16")
        writer.add(tokens, np.full(documents, 50, dtype=np.int32))
        writer.finish()
    return prefix


def settings(data: TinyData, output_dir: Path, path: Path, steps: int, *more: str) -> list[str]:
    base = data.overrides(output_dir=str(output_dir), trainer__max_steps=str(steps), data__valid="{}")
    base = [setting for setting in base if not setting.startswith("data.train=")]
    return [*base, f"data.train={{en:{{path:{path}}}}}", "save_nemo=false", *more]


def run(pool: GlooPool, overrides: list[str], processes: int = 1) -> Outcome:
    return pool.run(processes, run_case, overrides)[0]


def test_a_shared_cache_knows_the_content(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """The losses are those of the present data, whatever was indexed under the prefix before."""
    prefix, cache = tmp_path / "data", f"data.index_cache_dir={tmp_path / 'cache'}"
    copy(tiny_data, "train_hi", prefix)
    run(gloo_pool, settings(tiny_data, tmp_path / "first", prefix, 3, cache))
    copy(tiny_data, "train_en", prefix)
    found = run(gloo_pool, settings(tiny_data, tmp_path / "second", prefix, 3, cache))
    expected = run(gloo_pool, settings(tiny_data, tmp_path / "third", prefix, 3))
    assert found.losses == expected.losses and len(found.losses) == 3


def test_a_resume_on_changed_data(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    prefix = tmp_path / "data"
    copy(tiny_data, "train_hi", prefix)
    before = check_prefix(prefix).tokens
    assert run(gloo_pool, settings(tiny_data, tmp_path, prefix, 3)).code == 0
    copy(tiny_data, "train_en", prefix)
    now = check_prefix(prefix).tokens
    refused = run(gloo_pool, settings(tiny_data, tmp_path, prefix, 6))
    assert refused.code == 2 and refused.message.startswith(
        f"data.train.en.path={prefix}: its content has changed since the run was saved "
        f"({before:,} tokens then, {now:,} now); restore it, or set data.train.en.restart=true"
    )
    restart = settings(tiny_data, tmp_path, prefix, 6)
    restart = [setting.replace(f"path:{prefix}", f"path:{prefix},restart:true") for setting in restart]
    again = run(gloo_pool, restart)
    assert again.code == 0 and sorted(again.losses) == [1, 2, 3, 4, 5, 6]
    # Its checkpoint knows the new content: the setting may stay, and changes nothing any more.
    later = run(gloo_pool, [*restart, "trainer.max_steps=8"])
    straight = run(
        gloo_pool, [*restart, "trainer.max_steps=8", "name=straight", f"init_from={tmp_path}/tiny"]
    )
    assert later.code == straight.code == 0 and sorted(later.losses) == list(range(1, 9))


def test_a_resume_on_changed_held_out_text(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Losses do not depend on it, but its curve would seem to be one."""
    prefix = tmp_path / "data"
    copy(tiny_data, "valid_hi", prefix)
    before = check_prefix(prefix).tokens
    train = Path(tiny_data.prefix("train_en"))

    def command(steps: int) -> list[str]:
        base = settings(tiny_data, tmp_path, train, steps)
        return [f"data.valid={{hi:{prefix}}}" if each == "data.valid={}" else each for each in base]

    assert run(gloo_pool, command(3)).code == 0
    unchanged = run(gloo_pool, command(4))
    assert unchanged.code == 0 and unchanged.stderr == ""
    copy(tiny_data, "valid_en", prefix)
    changed = run(gloo_pool, command(6))
    assert changed.code == 0 and sorted(changed.losses) == [1, 2, 3, 4, 5, 6]
    assert changed.stderr.startswith(
        f"warning: data.valid.hi={prefix}: its content has changed since the run was saved "
        f"({before:,} tokens then, {check_prefix(prefix).tokens:,} now): its figures cannot be compared"
    )
    again = run(gloo_pool, command(7))
    assert again.code == 0 and again.stderr == ""


def test_the_first_samples_come_again(tmp_path: Path) -> None:
    from recipes.data.samples.blend import BlendState, continue_blend, with_restarted

    saved = BlendState(0, {"en": 1.0, "hi": 1.0}, {}, 8, {"en": [[0, 4], [3, 8]], "hi": [[0, 8]]})
    state = with_restarted(saved, 10, ["en"])
    assert state == BlendState(10, saved.weights, {"en": 0, "hi": 5}, 8, {"en": [[0, 8]], "hi": [[0, 8]]})
    assert continue_blend(saved.weights, saved.seq_length, state, 20) == state


def test_content_not_place_decides(tiny_data: TinyData, tmp_path: Path) -> None:
    copy(tiny_data, "train_hi", tmp_path / "moved")
    original = content_key(check_prefix(tiny_data.prefix("train_hi")))
    assert content_key(check_prefix(tmp_path / "moved")) == original
    assert content_key(check_prefix(tiny_data.prefix("train_en"))) != original
    one = content_key(check_prefix(foreign(tmp_path / "one", 700)))
    assert one == content_key(check_prefix(foreign(tmp_path / "two", 700)))
    assert one != content_key(check_prefix(foreign(tmp_path / "three", 701)))


@pytest.mark.parametrize("processes", [1, 2])
def test_ids_beyond_the_vocabulary(
    processes: int, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Refused under every layout, those in padded rows too (1,000 pieces, 1,024 rows)."""
    prefix = foreign(tmp_path / "other", 1010)
    layout = "parallel=tp2" if processes == 2 else "parallel=single"
    outcome = run(gloo_pool, settings(tiny_data, tmp_path, prefix, 3, layout), processes)
    assert outcome.code == 2 and outcome.message == (
        f"data.train.en={prefix}: holds the token id 1,010, model.vocab_size=1,000 allows 0 to 999; "
        f"{prefix}.json is missing, which would say what tokenizer it was made with"
    )
    assert not (tmp_path / "tiny" / "config.yaml").exists()


def test_foreign_data_that_fit_are_trained_on(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    prefix = foreign(tmp_path / "other", 999)
    outcome = run(gloo_pool, settings(tiny_data, tmp_path, prefix, 3))
    assert outcome.code == 0 and len(outcome.losses) == 3


def test_the_scan_is_made_once_for_the_same_content(tmp_path: Path) -> None:
    sidecar = check_prefix(foreign(tmp_path / "other", 999))
    cache = tmp_path / "cache"
    assert largest_id(sidecar, cache) == 999
    (kept,) = cache.iterdir()
    kept.write_text('{"largest_id": 5}')
    assert largest_id(sidecar, cache) == 5
    kept.write_text("torn")
    assert largest_id(sidecar, cache) == 999
    assert largest_id(check_prefix(foreign(tmp_path / "other", 1200)), cache) == 1200
