"""Pictures of what `trust` refuses: a figure for the page of :mod:`study`.

    python benchmarks/refused.py --study benchmarks/results/study --files FOLDER --out docs/assets/study-refused.png

Trains two students of glyph94 with AT and ``trust+balance``, one with the teacher as it is and one under ``wrong:0.4``,
and shows training images whose teacher outputs had no weight at any spot in the last epoch, with their label and what
the teacher takes them for. The study's folder must hold its teacher.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from balance import networks
from spotkd.data import load_glyph94
from spotkd.stages import Batch
from study import Cell, Watch, load_images, train_student, with_damage

HAZARDS = {"none": "teacher as it is", "wrong:0.4": "under wrong:0.4"}
SHOWN = 12


class LastWeights(Watch):
    """The mean weight over the spots of every sample, when it was last seen."""

    def __init__(self, samples: int) -> None:
        super().__init__(None, 1)
        self.weights = torch.ones(samples)

    def add(self, mask: Tensor, batch: Batch) -> None:
        assert batch.indices is not None
        self.weights[batch.indices] = mask.mean(1)


def choose(weights: Tensor, labels: Tensor) -> list[int]:
    """Refused samples of as many classes as are shown, the same in every run."""
    refused = (weights == 0).nonzero().flatten()
    order = refused[torch.randperm(len(refused), generator=torch.Generator().manual_seed(0))]
    by_class = {int(labels[index]): int(index) for index in order}
    return list(by_class.values())[:SHOWN]


def main(chosen: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    torch.set_num_threads(1)
    data, names = load_images("glyph94", chosen.files), load_glyph94().classes
    teacher, _ = networks("glyph94", data.classes)
    teacher.load_state_dict(torch.load(chosen.study / "teacher-glyph94.pt", weights_only=True))
    figure, axes = pyplot.subplots(len(HAZARDS), SHOWN, figsize=(SHOWN * 0.75, 2.6), layout="constrained")
    for row, (hazard, title) in zip(axes, HAZARDS.items(), strict=True):
        watch = LastWeights(len(data.train[1]))
        train_student(Cell("glyph94", 1, "at", hazard, "trust+balance"), data, chosen.study, 0.0, watch)
        seen = data.train[0]
        _, see, _ = with_damage(data, hazard, 1) if hazard != "none" else (None, None, None)
        if see is not None:
            seen = see(seen, torch.arange(len(seen)))
        picked = choose(watch.weights, data.train[1])
        with torch.inference_mode():
            said = teacher.eval()(seen[picked]).argmax(1).tolist()
        share = 100 * float((watch.weights == 0).float().mean())
        row[0].set_title(f"{title}: {share:.0f} % refused", loc="left", fontsize=8)
        for panel, index, word in zip(row, picked, said, strict=False):
            panel.imshow(data.train[0][index, 0], cmap="gray_r")
            panel.set_xlabel(f"{names[int(data.train[1][index])]} : {names[word]}", fontsize=8, parse_math=False)
        for panel in row:
            panel.set_xticks([])
            panel.set_yticks([])
    figure.savefig(chosen.out, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("runs/study"))
    parser.add_argument("--files", type=Path, default=Path(), help="folder of glyph94.npz")
    parser.add_argument("--out", type=Path, default=Path("study-refused.png"))
    main(parser.parse_args())
