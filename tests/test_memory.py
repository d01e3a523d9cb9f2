"""What a step may take: each in a process of its own, by the system's count of its highest resident set."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, resource, sys
import torch
from spotkd import Batch, SpotKD, create_model

teacher, student, distiller, samples = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.manual_seed(0)
indices = torch.randperm(samples)[:64]
batch = Batch(torch.randn(64, 3, 32, 32), indices % 100, indices)
networks = create_model(teacher, 100), create_model(student, 100)
method = SpotKD(*networks, distiller, image_shape=(3, 32, 32), labels=torch.arange(samples) % 100).train()
for _ in range(2):
    method(batch).total.backward()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))  # GiB: Linux counts in KiB
"""


def peak(*arguments: str) -> float:
    command = [sys.executable, "-c", MEASURE, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


@pytest.mark.slow
def test_nst_makes_no_tensor_of_all_channel_pairs_and_positions() -> None:
    """The published form would need 17 GB for the last map alone."""
    assert peak("ResNet50", "vgg8", "nst", "100") < 4


@pytest.mark.slow
def test_crd_at_the_size_of_cifar() -> None:
    """50 000 samples, 16 384 negatives: less than 2 GiB beyond the networks. The published form gathers 1 GB twice."""
    assert peak("resnet20", "resnet8", "crd", "50000") - peak("resnet20", "resnet8", "kd", "50000") < 2
