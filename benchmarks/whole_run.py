"""How long a run of the paper's length takes: epochs of CIFAR-100's size, measured after the first and extrapolated.

    python benchmarks/whole_run.py                                   # AT, resnet56 to resnet20, 50 008 images
    python benchmarks/whole_run.py --compile --cuda-graphs --profile
    python benchmarks/whole_run.py --images 4700 --measured 1 --epochs 3

What is measured is ``spotkd distill``, its loading, augmentation, evaluation on 9 964 test images and saving included.
The first epoch warms up and does not count. The teacher is not trained: what a step costs does not depend on what is
decided.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from spotkd import create_model
from spotkd.data.glyph94 import IMAGES_PER_FACE
from spotkd.models import save_weights
from spotkd.options import DataOptions, DistillOptions, ModelOptions
from spotkd.runs.folder import RunFolder
from spotkd.training import distill

ROWS = 25  # of a profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=["resnet56", "resnet20"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--distiller", default="at")
    parser.add_argument("--images", type=int, default=50_008)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--measured", type=int, default=3, help="epochs after the first")
    parser.add_argument("--epochs", type=int, default=240, help="to extrapolate to")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--profile", action="store_true", help="one more epoch, by operation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "teacher.safetensors"
        torch.manual_seed(0)
        save_weights(create_model(arguments.pair[0], IMAGES_PER_FACE), teacher, {})  # an image of each class

        def run(name: str, epochs: int) -> tuple[str, list[float], float]:
            started = time.perf_counter()
            summary = distill(
                DistillOptions(
                    out=str(Path(folder) / name),
                    data=DataOptions(limit=arguments.images),
                    teacher=ModelOptions(arguments.pair[0], str(teacher)),
                    student=ModelOptions(arguments.pair[1]),
                    distiller=arguments.distiller,
                    strategy="adaptive",
                    min_teacher_top1=0,
                    epochs=epochs,
                    batch_size=arguments.batch,
                    precision=arguments.precision,
                    accelerator=arguments.device,
                    compile=arguments.compile,
                    cuda_graphs=arguments.cuda_graphs,
                    quiet=True,
                    logger="none",
                )
            )
            took = time.perf_counter() - started
            device = f"{summary.device}, {summary.machine}"
            return device, RunFolder(summary.folder).metrics["seconds"], took

        _, _, once = run("short", 1)
        device, seconds, took = run("long", 1 + arguments.measured)
        each = (took - once) / arguments.measured  # with evaluation and saving; starting up and warming up cancel out
        training = statistics.median(seconds[1:])
        print(
            f"{' to '.join(arguments.pair)}, {arguments.distiller}, {arguments.images} images, batch {arguments.batch}"
        )
        print(f"{device}, torch {torch.__version__}{', compiled' * arguments.compile}\n")
        print("| | |\n|---|---|")
        spread = f"{min(seconds[1:]):.1f} to {max(seconds[1:]):.1f}"
        print(f"| seconds of training an epoch (min to max) | {training:.1f} ({spread}) |")
        print(f"| images/s of training | {arguments.images / training:.0f} |")
        print(f"| seconds an epoch, with evaluation and saving | {each:.1f} |")
        print(f"| minutes of {arguments.epochs} epochs | {(once + (arguments.epochs - 1) * each) / 60:.1f} |")
        if arguments.profile:
            cuda = torch.cuda.is_available()
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
            with profile(activities=kinds) as seen:
                run("profiled", 1)
            by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
            print(seen.key_averages().table(sort_by=by, row_limit=ROWS))


if __name__ == "__main__":
    main()
