"""Images a second that one core crops, flips and normalises: ``python benchmarks/augmentation.py``.

Compares, in turn within each round, ways to cut a window out of every padded image, and times whole epochs of the
loader on 32x32 images in memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spotkd import Dataset, Loader
from spotkd.data import ImageSet, augment

CLASSES = tuple(map(str, range(100)))


def by_rows_and_columns(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Advanced indexing of rows and columns."""
    count, _, height, width = images.shape
    rows = offsets[:, :1] + torch.arange(height)
    columns = torch.arange(width).expand(count, -1)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    samples = torch.arange(count)[:, None, None]
    return F.pad(images, (padding,) * 4)[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def one_at_a_time(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """A slice an image."""
    _, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    windows = []
    for image, (top, left), flip in zip(padded, offsets.tolist(), flips.tolist(), strict=True):
        window = image[:, top : top + height, left : left + width]
        windows.append(window.flip(-1) if flip else window)
    return torch.stack(windows)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "one gather over pixels (augment)": augment,
    "rows and columns": by_rows_and_columns,
    "one image at a time": one_at_a_time,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=50_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
    split = ImageSet(images, torch.arange(options.images) % 100)
    data = Dataset("random", split, split, CLASSES, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), padding=4, flip=True)

    speeds: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        batch = images[torch.randperm(options.images)[:64]]
        offsets, flips = torch.randint(9, (64, 2)), torch.rand(64) < 0.5
        for name, way in WAYS.items():
            started = time.perf_counter()
            for _ in range(50):
                way(batch, offsets, flips, 4)
            speeds.setdefault(f"crop and flip: {name}", []).append(50 * 64 / (time.perf_counter() - started))
        for layout in (torch.channels_last, torch.contiguous_format):
            loader = Loader(data, split, 64, training=True, memory_format=layout)
            started = time.perf_counter()
            seen = sum(len(done.labels) for done in loader.epoch(number))
            speeds.setdefault(f"whole epoch, batch 64, {layout}", []).append(seen / (time.perf_counter() - started))
    print(f"| images a second on one core, 32x32x3, {options.rounds} rounds | median | lowest | highest |")
    print("|---|---|---|---|")
    for name, values in speeds.items():
        kept = values[1:]  # the first round warms up
        print(f"| {name} | {statistics.median(kept):,.0f} | {min(kept):,.0f} | {max(kept):,.0f} |")


if __name__ == "__main__":
    main()
