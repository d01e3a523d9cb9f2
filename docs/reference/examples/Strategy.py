import torch

from spotkd import Batch, Decisions, SpotKD, Strategy, create_model


class FirstHalfOfTheBatch(Strategy):
    def decide(self, logits):
        mask = torch.zeros(logits.shape[:-1])
        mask[: len(mask) // 2] = 1
        return Decisions(mask)


method = SpotKD(
    create_model("resnet20", 10), create_model("resnet8", 10), "at", FirstHalfOfTheBatch(), image_shape=(3, 32, 32)
)
print(method(Batch(torch.randn(8, 3, 32, 32), torch.arange(8))).mask.mean(0).tolist())  # [0.5, 0.5, 0.5, 0.5]
