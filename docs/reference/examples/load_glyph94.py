from spotkd import load_glyph94

data = load_glyph94()
print(data)  # Dataset('glyph94', 50008 training and 9964 test images of 3 x 32 x 32, 94 classes)
