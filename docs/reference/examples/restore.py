import torch

from spotkd.options import DataOptions, DistillOptions, ModelOptions, TrainOptions
from spotkd.training import distill, restore, train

few = DataOptions(limit=94)
train(TrainOptions(model=ModelOptions("resnet20"), data=few, epochs=1, out="runs/teacher", quiet=True))
teacher, student = ModelOptions("resnet20", checkpoint="runs/teacher"), ModelOptions("resnet8")
distill(DistillOptions(teacher=teacher, student=student, data=few, epochs=1, out="runs/student", quiet=True))
method, data = restore("runs/student")
print(tuple(method.student(torch.randn(2, *data.image_shape)).shape))  # (2, 94)
