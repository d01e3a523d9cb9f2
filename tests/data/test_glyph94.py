"""The embedded data set is what its card says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spotkd import Dataset, SpotkdError, load_glyph94
from spotkd.data.glyph94 import IMAGES_PER_FACE

from ..conftest import in_memory


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return load_glyph94()


def test_sizes_and_classes(glyphs: Dataset) -> None:
    assert in_memory(glyphs.train).images.shape == (50_008, 1, 32, 32)
    assert in_memory(glyphs.test).images.shape == (9_964, 1, 32, 32)
    assert in_memory(glyphs.train).images.dtype == torch.uint8
    assert "".join(glyphs.classes) == "".join(map(chr, range(33, 127)))
    assert glyphs.image_shape == (3, 32, 32)
    for split in map(in_memory, (glyphs.train, glyphs.test)):
        assert torch.equal(
            split.labels.view(-1, IMAGES_PER_FACE), torch.arange(94).expand(len(split) // IMAGES_PER_FACE, 94)
        )


def test_the_overlap_that_the_card_states(glyphs: Dataset) -> None:
    known = {row.tobytes() for row in np.asarray(in_memory(glyphs.train).images)}
    twins = [
        label
        for row, label in zip(np.asarray(in_memory(glyphs.test).images), in_memory(glyphs.test).labels, strict=True)
        if row.tobytes() in known
    ]
    assert len(twins) == 381
    assert {glyphs.classes[label] for label in torch.stack(twins).tolist()} >= set("|-.")


def test_limit(glyphs: Dataset) -> None:
    assert len(glyphs.limited(9_400).train) == 9_400
    assert len(glyphs.limited(None).train) == 50_008
    assert len(glyphs.limited(9_400).test) == 9_964
    for limit in (0, -1, 50_009):
        with pytest.raises(SpotkdError, match=rf"data\.limit is {limit}: glyph94 has 1 to 50008"):
            glyphs.limited(limit)
