import torch

from spotkd import Loader, SpotKD, create_model, load_dataset

data = load_dataset("glyph94", limit=188)
teacher = create_model("resnet20", num_classes=94)  # checkpoint="runs/teacher" for a trained one
student = create_model("resnet8", num_classes=94)
method = SpotKD(teacher, student, distiller="at", strategy="adaptive", image_shape=data.image_shape)
optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05), momentum=0.9)
for batch in Loader(data, data.train, batch_size=94, training=True).epoch(1):
    losses = method(batch)
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()

print(method)  # SpotKD(AT, Adaptive; spots layer1, layer2, layer3, logits; CifarResNet teaches CifarResNet)
print(tuple(losses.mask.shape))  # (94, 4)
