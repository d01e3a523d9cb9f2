import torch

from spotkd import create_model
from spotkd.training import make_fabric

fabric = make_fabric("cpu", "32")
model = fabric.setup_module(create_model("resnet8", num_classes=10))
print(fabric.device, tuple(model(torch.randn(2, 3, 32, 32)).shape))  # cpu (2, 10)
