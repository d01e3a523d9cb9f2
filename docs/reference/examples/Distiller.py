import torch

from spotkd import Distiller, SpotKD, create_model
from spotkd.distillers.base import all_maps


class Brightness(Distiller):
    """The mean of each map should be the teacher's."""

    spot_rule = all_maps
    default_weight = 1.0

    def sample_losses(self, student, teacher, batch):
        pairs = zip(student, teacher, strict=True)
        return torch.stack([(s.mean((1, 2, 3)) - t.mean((1, 2, 3))).square() for s, t in pairs], dim=1)


method = SpotKD(create_model("resnet20", 10), create_model("resnet8", 10), Brightness, image_shape=(3, 32, 32))
print(method)  # SpotKD(Brightness, Adaptive; spots layer1, layer2, layer3, logits; CifarResNet teaches CifarResNet)
