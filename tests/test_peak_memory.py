"""What a step may take: each in a process of its own, by the system's count of its highest resident set."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEASURE = """
import sys
from pathlib import Path
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
# Not getrusage: its figure is inherited from the parent process.
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**20)  # KiB to GiB
"""


def peak(*arguments: str) -> float:
    command = [sys.executable, "-c", MEASURE, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


@pytest.mark.process
@pytest.mark.slow
def test_nst_makes_no_tensor_of_all_channel_pairs_and_positions() -> None:
    """The published form would need 17 GB for the last map alone."""
    assert peak("ResNet50", "vgg8", "nst", "100") < 4


@pytest.mark.process
@pytest.mark.slow
def test_crd_at_the_size_of_cifar() -> None:
    """50 000 samples, 16 384 negatives: less than 2 GiB beyond the networks. The published form gathers 1 GB twice."""
    beyond = peak("resnet20", "resnet8", "crd", "50000") - peak("resnet20", "resnet8", "kd", "50000")
    assert 0.04 < beyond < 2  # two memories alone are 0.05: the measure sees them
