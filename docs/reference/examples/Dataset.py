import torch

from spotkd import Dataset, Loader
from spotkd.data import ImageSet

images = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)
labels = torch.arange(20) % 2
data = Dataset(
    "mine", ImageSet(images, labels), ImageSet(images, labels), classes=("cat", "dog"), mean=(0.5,) * 3, std=(0.25,) * 3
)
print(data)  # Dataset('mine', 20 training and 20 test images of 3 x 16 x 16, 2 classes)
print([len(batch.labels) for batch in Loader(data, data.train, batch_size=8, training=False).epoch(1)])  # [8, 8, 4]
