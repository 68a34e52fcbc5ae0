"""Keep a collection of synthetic images on disk, drawn ahead of training by separate processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from kernels.training import synthetic as synth

# Held-out images have indices that no training run reaches.
HELD_OUT = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Name a collection of images, and the shards, files (N, 3, side, side) uint8, that hold it."""

    directory: Path
    seed: int
    side: int
    """Side of an image, px."""
    shard_images: int
    shards: int

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.directory / f"shard-{self.seed}-{self.side}-{shard:05d}.npy"

    def draw(self, shard: int) -> None:
        """Draw the images of a shard, and put the whole file in place at once."""
        indices = range(shard * self.shard_images, (shard + 1) * self.shard_images)
        partial = self.path(shard).with_suffix(f".partial{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, np.stack([synth.draw(self.seed, index, self.side) for index in indices]))
        partial.replace(self.path(shard))

    def held_out(self, index: int) -> NDArray[np.uint8]:
        """Draw an image (3, side, side) that is in no shard."""
        return synth.draw(self.seed, HELD_OUT + index, self.side)


class ImagePool:
    """Serve random crops of the first few shards of a collection; a context manager that owns the
    drawing processes.

    Which shards are in use is the caller's decision at each crop, never a matter of how far the
    drawing has come: a missing shard is waited for, or drawn on the spot when there are no drawers.
    """

    def __init__(self, collection: Collection, drawers: int = 0) -> None:
        self.collection = collection
        self._images: dict[int, NDArray[np.uint8]] = {}
        collection.directory.mkdir(parents=True, exist_ok=True)
        # Spawned, not forked: a fork copies the threads' locks of the training process in whatever
        # state they are.
        process = multiprocessing.get_context("spawn").Process
        self._drawers = [
            process(target=_draw_all, args=(collection, i, drawers), daemon=True)
            for i in range(drawers)
        ]

    def __enter__(self) -> ImagePool:
        for process in self._drawers:
            process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._drawers:
            process.terminate()
            process.join()

    def crop(
        self,
        rng: np.random.Generator,
        visible: int,
        side: int,
    ) -> NDArray[np.uint8]:
        """Cut (3, side, side) out of one of the first `visible` shards; a quarter of the crops show
        twice the width.
        """
        whole = self.collection.side
        images = self._shard(int(rng.integers(min(visible, self.collection.shards))))
        image = images[rng.integers(len(images))]
        halve = bool(rng.random() < 0.25) and 2 * side <= whole
        span = 2 * side if halve else side
        y, x = rng.integers(0, whole - span + 1, 2)
        cut = image[:, y : y + span, x : x + span]
        if not halve:
            return np.asarray(cut)
        mean = cut.reshape(3, side, 2, side, 2).mean((2, 4), dtype=np.float32)
        return (mean + 0.5).astype(np.uint8)

    def _shard(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._images:
            while not self.collection.path(shard).exists():
                if any(process.is_alive() for process in self._drawers):
                    time.sleep(0.2)
                else:
                    self.collection.draw(shard)
            self._images[shard] = np.load(self.collection.path(shard), mmap_mode="r")
        return self._images[shard]


def _draw_all(collection: Collection, first: int, stride: int) -> None:
    """Draw every missing shard from `first` in steps of `stride`, until done or until the training
    process is gone.
    """
    os.nice(5)
    parent = multiprocessing.parent_process()
    for shard in range(first, collection.shards, stride):
        if parent is None or not parent.is_alive():
            return
        if not collection.path(shard).exists():
            collection.draw(shard)
