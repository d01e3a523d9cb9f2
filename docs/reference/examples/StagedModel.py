import torch
from torch import nn

from spotkd import StagedModel


class Small(StagedModel):
    stage_names = ("stem", "embedding", "logits")

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, classes)

    def stages(self):
        return self.stem, self.pool, self.head


print([tuple(feature.shape) for feature in Small(10).features(torch.randn(2, 3, 8, 8))])
# [(2, 8, 4, 4), (2, 8), (2, 10)]
