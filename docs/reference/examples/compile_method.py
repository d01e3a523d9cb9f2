import torch
from torch import nn

from spotkd import Batch, SpotKD, compile_method, stage


def network(width):
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), pool, nn.Linear(width, 10))
    return stage(layers, at=["1"], image_shape=(3, 8, 8))


method = SpotKD(network(8), network(4), "kd", "always", image_shape=(3, 8, 8))
with compile_method(method, size=8, log=lambda line: None):  # log=print says how long compiling took
    losses = method(Batch(torch.randn(8, 3, 8, 8), torch.arange(8)))
    losses.total.backward()
print(tuple(losses.logits.shape))  # (8, 10)
