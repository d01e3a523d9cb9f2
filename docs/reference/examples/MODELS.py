from spotkd import MODELS

print(list(MODELS)[:4])  # ['MobileNetV2', 'MobileNetV2_0_5', 'resnet8', 'resnet14']
print("resnet8" in MODELS)  # True
