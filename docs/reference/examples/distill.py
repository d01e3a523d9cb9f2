from spotkd.options import DataOptions, DistillOptions, ModelOptions, TrainOptions
from spotkd.training import distill, train

few = DataOptions(limit=94)
train(TrainOptions(model=ModelOptions("resnet20"), data=few, epochs=1, out="runs/teacher", quiet=True))
summary = distill(
    DistillOptions(
        teacher=ModelOptions("resnet20", checkpoint="runs/teacher"),
        student=ModelOptions("resnet8"),
        data=few,
        distiller="at",
        epochs=1,
        out="runs/student",
        quiet=True,
    )
)
print(list(summary.shares))  # ['layer1', 'layer2', 'layer3', 'logits']
