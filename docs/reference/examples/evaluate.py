from spotkd import Loader, create_model, load_dataset
from spotkd.training import evaluate, make_fabric

data = load_dataset("glyph94", limit=94)
loader = Loader(data, data.train, batch_size=94, training=False)
scores = evaluate(create_model("resnet8", 94), loader, make_fabric("cpu", "32"), num_classes=94)
print(scores.images)  # 94
