import torch

from spotkd import Batch, SpotKD, create_model

method = SpotKD(create_model("resnet20", 10), create_model("resnet8", 10), "at", "always", image_shape=(3, 32, 32))
losses = method(Batch(torch.randn(8, 3, 32, 32), torch.arange(8)))
terms = losses.task + losses.kl + losses.distill  # 'always' trains no policy: no other term
print(torch.equal(losses.total, terms))  # True
print(losses.mask.mean(0).tolist())  # [1.0, 1.0, 1.0, 1.0]
