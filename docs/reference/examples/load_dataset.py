from spotkd import load_dataset

data = load_dataset("glyph94", limit=188, val_share=0.5)
print(data)  # Dataset('glyph94', 94 training, 94 validation and 9964 test images of 3 x 32 x 32, 94 classes)
print(data.classes[:3])  # ('!', '"', '#')
