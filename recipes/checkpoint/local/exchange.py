"""Parts of local checkpoints from node to node, over gloo."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recipes.checkpoint.local.files import LocalDirectory, Part
from recipes.checkpoint.save.disk import failure_of
from recipes.checkpoint.save.manifest import read_manifest
from recipes.errors import UserError

CHUNK_BYTES = 16 * 2**20
ADVICE = "this node has no copy of it"


def exchange(
    directory: LocalDirectory,
    sent: Part | None,
    to: int | None,
    source: int | None,
    group: dist.ProcessGroup | None = None,
) -> UserError | None:
    """Sends a part to rank ``to`` while another one comes in from rank ``source``; either may be None.

    What has come in is compared with its sender's manifest, and is a part here from then on.

    Returns:
        Why the part that came in could not be kept. It is received to its end all the same, for its sender.
    """
    outgoing = _outgoing(directory, sent) if to is not None and sent is not None else iter(())
    incoming = _Incoming(directory) if source is not None else None
    while True:
        pending: list[Any] = []
        chunk = next(outgoing, None)
        if chunk is not None:
            pending.append(dist.isend(chunk, to, group=group))
        buffer = incoming.buffer if incoming is not None else None
        if buffer is not None:
            pending.append(dist.irecv(buffer, source, group=group))
        if not pending:
            return incoming.failure if incoming is not None else None
        for each in pending:
            each.wait()
        if incoming is not None and buffer is not None:
            incoming.take(buffer)


def _outgoing(directory: LocalDirectory, part: Part) -> Iterator[Tensor]:
    """The length of a header, the header (what part it is, and its files), and the files in its order."""
    place = directory.place(part.rank, part.step)
    files = read_manifest(place)["files"]
    header = json.dumps({"part": asdict(part), "files": files}).encode()
    yield torch.tensor([len(header)])
    yield torch.frombuffer(bytearray(header), dtype=torch.uint8)
    for name in files:
        with (place / name).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield torch.frombuffer(bytearray(chunk), dtype=torch.uint8)


class _Incoming:
    """What arrives, in the order of :func:`_outgoing`."""

    def __init__(self, directory: LocalDirectory) -> None:
        self.failure: UserError | None = None
        self._directory = directory
        self._messages = self._receive()
        self.buffer: Tensor | None = next(self._messages)
        """Where the next message goes; None: there is none."""

    def take(self, message: Tensor) -> None:
        """``message``: :attr:`buffer`, filled."""
        try:
            self.buffer = self._messages.send(message)
        except StopIteration:
            self.buffer = None

    def _receive(self) -> Generator[Tensor, Tensor, None]:
        """Yields empty tensors and gets them back filled."""
        length = yield torch.empty(1, dtype=torch.int64)
        header = json.loads((yield torch.empty(int(length), dtype=torch.uint8)).numpy().tobytes())
        part = Part(**header["part"])
        place = self._directory.place(part.rank, part.step)
        partial = self._attempt(place, lambda: self._directory.new_partial(part.rank, part.step))
        for name, entry in header["files"].items():
            digest, left = hashlib.sha256(), int(entry["bytes"])
            while left:
                chunk = yield torch.empty(min(left, CHUNK_BYTES), dtype=torch.uint8)
                left -= len(chunk)
                digest.update(chunk.numpy().data)
                self._attempt(place, partial_of(_append, partial, name, chunk, last=not left))
            if self.failure is None and digest.hexdigest() != entry["sha256"]:
                self.failure = UserError(f"{place / name}: did not arrive as it was written; {ADVICE}")
        self._attempt(place, lambda: self._directory.publish(part, partial))

    def _attempt(self, place: Path, action: Callable[[], Any]) -> Any:
        """The action's result; after the first failure nothing is attempted any more."""
        results: list[Any] = [None]
        if self.failure is None:
            self.failure = failure_of(lambda: results.append(action()), place, ADVICE)
        return results[-1]


def _append(directory: Path, name: str, chunk: Tensor, *, last: bool) -> None:
    with (directory / name).open("ab") as file:
        file.write(chunk.numpy().data)
        if last:
            file.flush()
            os.fsync(file.fileno())
