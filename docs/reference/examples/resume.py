from spotkd.options import DataOptions, ModelOptions, TrainOptions
from spotkd.training import resume, train

options = TrainOptions(
    model=ModelOptions("resnet8"), data=DataOptions(limit=94), epochs=1, out="runs/small", quiet=True
)
summary = train(options)  # killed meanwhile, it leaves what it has
print(resume("runs/small") == summary)  # True
