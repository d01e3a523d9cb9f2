from spotkd import RunFolder
from spotkd.options import DataOptions, ModelOptions, TrainOptions
from spotkd.training import train

few = DataOptions(limit=94)
summary = train(TrainOptions(model=ModelOptions("resnet8"), data=few, epochs=1, out="runs/small", quiet=True))
print(summary == RunFolder("runs/small").summary)  # True
