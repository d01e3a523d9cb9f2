from spotkd import RunFolder
from spotkd.options import DataOptions, ModelOptions, TrainOptions
from spotkd.training import train

few = DataOptions(limit=94)
train(TrainOptions(model=ModelOptions("resnet8"), data=few, epochs=1, out="runs/small", quiet=True))
run = RunFolder("runs/small")
print(run.kind, run.options.epochs, len(run.metrics["test_top1"]), run.finished)  # train 1 1 True
