import torch

from spotkd import Batch, Supervised, create_model

method = Supervised(create_model("resnet8", num_classes=10))
optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
for _ in range(2):
    losses = method(Batch(torch.randn(8, 3, 32, 32), torch.arange(8)))
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()

print(tuple(losses.logits.shape))  # (8, 10)
