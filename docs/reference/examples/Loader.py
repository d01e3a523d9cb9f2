from spotkd import Loader, load_dataset

data = load_dataset("glyph94", limit=188)
loader = Loader(data, data.train, batch_size=94, training=True, seed=1)
batch, other = loader.epoch(1)
print(tuple(batch.images.shape))  # (94, 3, 32, 32)
again, _ = loader.epoch(1)
print(batch.indices.equal(again.indices))  # True
