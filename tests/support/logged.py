"""What TensorBoard and Weights & Biases would show of a run: its files, read back."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.run_cases import Outcome, run_case

Points = list[tuple[int, float]]
BLOCK = 32768


def tensorboard_curves(run: Path) -> dict[str, Points]:
    """(step, value) by tag, as TensorBoard reads the run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def tensorboard_texts(run: Path) -> dict[str, list[tuple[int, str]]]:
    """(step, text) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def wandb_records(run: Path) -> list[Any]:
    """What `wandb sync` would send of all offline runs in the directory, in the order of their starts."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in _log_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            records.append(record)
    return records


def _log_records(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, after wandb's 7 bytes at its beginning; a torn end has none.

    Blocks of 32 KiB hold pieces: CRC (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last).
    """
    assert log[:4] == b":W&B"
    at, pieces = 7, b""
    while at + 7 <= len(log):
        if (rest := BLOCK - at % BLOCK) < 7:
            at += rest
            continue
        length, kind = struct.unpack_from("<HB", log, at + 4)
        if kind == 0:
            return
        pieces += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


def wandb_curves(run: Path) -> dict[str, Points]:
    """(trainer/global_step, value) by key."""
    curves: dict[str, Points] = defaultdict(list)
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "history":
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = row["trainer/global_step"]
            for key, value in row.items():
                if not key.startswith("_") and key != "trainer/global_step":
                    curves[key].append((step, value))
    return dict(curves)


def wandb_config(run: Path) -> dict[str, Any]:
    """The configuration that the last process has given."""
    config: dict[str, Any] = {}
    for record in wandb_records(run):
        for update in (record.run.config, record.config):
            config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in update.update}
    return config


def wandb_ids(run: Path) -> list[str]:
    """Of all offline runs in the directory."""
    return [record.run.run_id for record in wandb_records(run) if record.WhichOneof("record_type") == "run"]


def failing_logger_case(overrides: list[str]) -> Outcome:
    """A run whose TensorBoard cannot write any more from its third step on."""
    from torch.utils.tensorboard import SummaryWriter

    original: Any = SummaryWriter.add_scalar

    def add_scalar(self: Any, tag: str, value: float, step: int) -> Any:
        if step == 3:
            raise OSError(28, "No space left on device")
        return original(self, tag, value, step)

    SummaryWriter.add_scalar = add_scalar
    return run_case(overrides)
