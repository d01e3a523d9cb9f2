from spotkd.options import DataOptions, EvaluateOptions, ModelOptions, TrainOptions
from spotkd.training import evaluate_checkpoint, train

few = DataOptions(limit=94)
train(TrainOptions(model=ModelOptions("resnet20"), data=few, epochs=1, out="runs/teacher", quiet=True))
scores = evaluate_checkpoint(EvaluateOptions(checkpoint="runs/teacher"))
print(scores.top1 <= scores.top5)  # True
