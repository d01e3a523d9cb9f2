import torch

from spotkd import create_model, fold_batchnorm

model = create_model("resnet8", num_classes=10).eval()
folded, pairs, reason = fold_batchnorm(model, image_shape=(3, 32, 32))
images = torch.randn(2, 3, 32, 32)
print(torch.allclose(folded(images), model(images), atol=1e-4), pairs, reason)  # True 9 None
