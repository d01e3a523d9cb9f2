"""Size, arithmetic and spots of the networks that one takes by name: the table of docs/networks.md.

    python benchmarks/networks.py --out benchmarks/results/networks.csv
    python benchmarks/networks.py --out benchmarks/results/networks.csv --page docs/networks.md

The zoo is measured with 100 classes and 32 px, networks of torchvision and timm as they come: 1000 classes and 224 px.
Networks that have a row are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from spotkd import MODELS, create_model
from spotkd.distillers.base import all_maps
from spotkd.profiling import count_flops, count_parameters
from spotkd.stages import feature_shapes

FIELDS = ("network", "pixels", "parameters", "flops", "spots")
OTHERS = {
    "torchvision": (
        *("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "vgg11_bn"),
        *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
        *("squeezenet1_1", "mnasnet0_5", "regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16"),
    ),
    "timm": (
        *("mobilenetv3_small_100", "mobilenetv3_large_100", "tf_efficientnetv2_s", "ghostnet_100", "resnet26d"),
        *("convnext_atto", "convnextv2_nano", "deit_tiny_patch16_224", "vit_tiny_patch16_224", "vit_small_patch16_224"),
        *("mixer_s32_224", "poolformer_s12", "repvgg_a0", "edgenext_xx_small"),
    ),
}
PAGE = """<!-- made by benchmarks/networks.py from benchmarks/results/networks.csv: change those -->

# Networks and their size

Which teacher, which student: parameters, operations for one image, and the spots that `at` takes where nothing else is
said. Measure any other network, of your own too:

```
spotkd profile resnet56 resnet8 --classes 100 --distillers none --rounds 3
```

Operations are of one forward pass, two a multiplication with its addition. `spotkd profile` adds times and memory.
[Which other families can be cut](families.md) was tried with the smallest network of each. The table was made by

```
python benchmarks/networks.py --out benchmarks/results/networks.csv --page docs/networks.md
```
"""


def measure(name: str, classes: int, pixels: int) -> dict[str, object]:
    """A row of the table."""
    shape = (3, pixels, pixels)
    with redirect_stdout(None):
        network = create_model(name, classes, image_shape=shape).eval()
    shapes = feature_shapes(network, shape)
    spots = [f"{network.stage_names[spot]}:{'x'.join(map(str, shapes[spot]))}" for spot in all_maps(shapes)]
    flops = count_flops(network, torch.zeros(1, *shape))
    return dict(zip(FIELDS, (name, pixels, count_parameters(network), flops, " ".join(spots)), strict=True))


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def page(rows: dict[str, dict[str, str]]) -> str:
    """The page, with a table for each source."""
    parts = [PAGE.rstrip()]
    sources = {"The zoo: 32 px, 100 classes": "", "torchvision": "torchvision:", "timm": "timm:"}
    for title, prefix in sources.items():
        found = [row for name, row in rows.items() if (name.startswith(prefix) if prefix else ":" not in name)]
        lines = [f"## {title}" + (": 224 px, 1000 classes" if prefix else "") + "\n"]
        lines += ["| network | parameters, million | operations, million | spots of `at` |", "|---|---|---|---|"]
        for row in found:
            size, work = int(row["parameters"]) / 1e6, int(row["flops"]) / 1e6
            lines.append(f"| `{row['network']}` | {size:.2f} | {work:.0f} | {row['spots'].replace(' ', ', ')} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("networks.csv"))
    parser.add_argument("--page", type=Path, help="write the page from the rows, too")
    chosen = parser.parse_args()
    import_module("tests.vision")  # torchvision under a torch of another build
    torch.set_num_threads(1)
    rows = read_rows(chosen.out)
    wanted = [(name, 100, 32) for name in MODELS]
    wanted += [(f"{source}:{name}", 1000, 224) for source, names in OTHERS.items() for name in names]
    with chosen.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not rows:
            writer.writeheader()
        for name, classes, pixels in wanted:
            if name not in rows:
                writer.writerow(measure(name, classes, pixels))
                file.flush()
                print(name)
    if chosen.page:
        chosen.page.write_text(page(read_rows(chosen.out)), encoding="utf-8")
