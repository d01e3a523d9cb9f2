import torch

from spotkd import Batch

batch = Batch(torch.randn(8, 3, 32, 32), torch.arange(8))
print(tuple(batch.images.shape), batch.classes.tolist(), batch.indices)  # (8, 3, 32, 32) [0, 1, 2, 3, 4, 5, 6, 7] None
