import torch

from spotkd import create_model

model = create_model("resnet8", num_classes=10)
print(tuple(model(torch.randn(2, 3, 32, 32)).shape))  # (2, 10)
print(model.stage_names)  # ('stem', 'layer1', 'layer2', 'layer3', 'pool', 'fc')
