import torch

from spotkd import Loader, Supervised, create_model, load_dataset
from spotkd.runs.writer import RunWriter
from spotkd.runtime.device import Device
from spotkd.training import Session, fit, make_fabric, make_optimizer
from spotkd.training.select import Selection
from spotkd.training.session import Schedule, TrainingData
from spotkd.training.trained import TrainedNetwork

data = load_dataset("glyph94", limit=94)
train, test = (Loader(data, split, batch_size=94, training=split is data.train) for split in (data.train, data.test))
method = Supervised(create_model("resnet8", num_classes=94))
optimizer, rates = make_optimizer(method, epochs=1, steps_per_epoch=len(train))
session = Session(
    model="resnet8",
    method=method,
    trained=TrainedNetwork(method.student),
    data=TrainingData(data, train, test, "test", test),
    optimizer=optimizer,
    schedule=Schedule(1, rates),
    selection=Selection("last", data, {"student": method.student}, patience=0),
    device=Device(make_fabric("cpu", "32"), torch.channels_last),
    run=RunWriter("runs/own", {}, "train"),
)
print(fit(session).epochs)  # 1
