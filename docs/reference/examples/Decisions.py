import torch

from spotkd import Decisions

decisions = Decisions(mask=torch.tensor([[1.0, 0.0], [1.0, 1.0]]))  # two samples, one spot beside the logits
print(decisions.mask.mean(0).tolist(), decisions.route)  # [1.0, 0.5] None
