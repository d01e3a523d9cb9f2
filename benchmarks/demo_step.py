"""Milliseconds an image of each training step of the demo, as glibc comes and told to keep freed memory.

    python benchmarks/demo_step.py            # a table, both settings in turn, five times

Each setting runs in a process of its own, in turn, so that a drift of the machine's speed meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

BATCH, STEPS, ROUNDS = 32, 25, 5
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}


def measure() -> dict[str, float]:
    import torch

    from spotkd import Loader, SpotKD, Supervised, create_model, load_glyph94

    data = load_glyph94().limited(9400)

    def spot_kd(distiller: str, strategy: str) -> SpotKD:
        pair = create_model("resnet20", 94), create_model("resnet8", 94)
        return SpotKD(*pair, distiller, strategy, image_shape=data.image_shape)

    methods = {
        "teacher": Supervised(create_model("resnet20", 94)),
        "alone": Supervised(create_model("resnet8", 94)),
        "KD": spot_kd("kd", "always"),
        "AT": spot_kd("at", "always"),
        "SAKD-AT": spot_kd("at", "adaptive"),
    }
    figures = {}
    for name, method in methods.items():
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
        loader = Loader(data, data.train, BATCH, training=True, memory_format=torch.channels_last)
        times = []
        for step, batch in enumerate(loader.epoch(1)):
            if step == STEPS:
                break
            start = time.perf_counter()
            losses = method(batch)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
        figures[name] = 1e3 * statistics.median(times) / BATCH
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return figures | {"page faults": float(usage.ru_minflt), "peak MiB": usage.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    if parser.parse_args().one:
        print(json.dumps(measure()))
        return
    rounds = []
    for _ in range(ROUNDS):
        pair = {}
        for setting, variables in (("plain", {}), ("keep", KEEP)):
            command = [sys.executable, __file__, "--one"]
            done = subprocess.run(command, check=True, capture_output=True, env=os.environ | variables)
            pair[setting] = json.loads(done.stdout)
        rounds.append(pair)
    print("| ms an image | as it comes | freed memory kept | ratio (min to max) |\n|---|---|---|---|")
    for name in rounds[0]["plain"]:
        plain, keep = ([pair[setting][name] for pair in rounds] for setting in ("plain", "keep"))
        ratios = [b / a for a, b in zip(plain, keep, strict=True)]
        medians = f"{statistics.median(plain):.4g} | {statistics.median(keep):.4g} | {statistics.median(ratios):.2f}"
        print(f"| {name} | {medians} ({min(ratios):.2f} to {max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
