import torch
from torch import nn

from spotkd import stage

network = nn.Sequential(
    nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()),
    nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    nn.Linear(16, 10),
)
staged = stage(network, at=["0", "1"], image_shape=(3, 32, 32))
for name, feature in zip(staged.stage_names, staged.features(torch.randn(2, 3, 32, 32)), strict=True):
    print(name, tuple(feature.shape))
# 0 (2, 8, 16, 16)
# 1 (2, 16, 8, 8)
# 2 (2, 16)
# 3 (2, 10)
