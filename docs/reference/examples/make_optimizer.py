import torch

from spotkd import Batch, SpotKD, create_model
from spotkd.training import make_optimizer

method = SpotKD(create_model("resnet20", 10), create_model("resnet8", 10), "at", image_shape=(3, 32, 32))
optimizer, schedule = make_optimizer(method, epochs=240, steps_per_epoch=1, milestones=(150, 180, 210))
losses = method(Batch(torch.randn(8, 3, 32, 32), torch.arange(8)))
losses.total.backward()
optimizer.step()
schedule.step()
print([group["lr"] for group in optimizer.param_groups])  # [0.05, 0.025]
