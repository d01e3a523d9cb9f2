from spotkd import DATASETS

for name in DATASETS:
    print(name)
# cifar10
# cifar100
# imagenet
# glyph94
# tiny-imagenet
