"""Build glyph94.npz, the embedded data set, from the fonts of this machine.

    pip install -c constraints.txt -e '.[data]'
    python tools/build_glyph94.py OUT.npz                      # all fonts below /usr/share/fonts
    python tools/build_glyph94.py --compare src/spotkd/data/glyph94.npz

The archive in the package is the canonical data set: it was made with the fonts-* packages of Debian 12, and another
version of FreeType or of a font moves a few pixels. ``--compare`` renders those faces of an archive that this machine
has and reports how far they are from it; that checks the rendering without all the fonts.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Images = NDArray[np.uint8]

CHARACTERS = [chr(code) for code in range(33, 127)]  # printable ASCII without the space
SIDE = 32  # pixels
TALLEST = 28  # pixels from the highest to the lowest point of any character of a face
TRAIN_FACES, TEST_FACES = 532, 106  # 50 008 and 9 964 images, the size of CIFAR
FACES_PER_FAMILY = 3  # so that no large family outweighs the others
SEED = 1029


class Face(NamedTuple):
    """One usable font file: its name, its family, and ``(94, 32, 32)`` images."""

    file: str
    family: str
    images: Images


def render(path: Path) -> Images | None:
    """All characters of a face with one scale and one baseline; None if the face is no alphabet of its own.

    Two passes: the first at 96 pixels measures the face, the second draws it so that its tallest extent is 28 pixels.
    Characters are centred by their ink horizontally, and share a baseline that centres the face vertically.
    """
    at_96 = ImageFont.truetype(path, 96)
    boxes = [at_96.getbbox(character, anchor="ls") for character in CHARACTERS]
    extent = max(bottom for _, _, _, bottom in boxes) - min(top for _, top, _, _ in boxes)
    if not 10 < extent <= 400:  # empty, or with ornaments that would leave the letters a few pixels
        return None
    font = ImageFont.truetype(path, max(6, round(96 * TALLEST / extent)))
    boxes = [font.getbbox(character, anchor="ls") for character in CHARACTERS]
    highest, lowest = min(top for _, top, _, _ in boxes), max(bottom for _, _, _, bottom in boxes)
    baseline = SIDE // 2 - (highest + lowest) // 2
    images = np.zeros((len(CHARACTERS), SIDE, SIDE), np.uint8)
    for number, (character, (left, _, right, _)) in enumerate(zip(CHARACTERS, boxes, strict=True)):
        canvas = Image.new("L", (SIDE, SIDE), 0)
        origin = (SIDE // 2 - (left + right) // 2, baseline)
        ImageDraw.Draw(canvas).text(origin, character, fill=255, font=font, anchor="ls")
        images[number] = np.asarray(canvas)
    has_ink = bool((images.reshape(len(images), -1).sum(1) >= 3 * 255).all())
    is_alphabet = len({image.tobytes() for image in images}) >= 80  # symbol fonts repeat one box
    return images if has_ink and is_alphabet else None


def faces_below(folder: Path) -> Iterator[Face]:
    """The usable faces of a folder, in order of their paths; of a face under two names the first."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".ttf", ".otf"):
            continue
        try:
            font = TTFont(path, lazy=True)
            covered = font.getBestCmap() or {}
            if any(ord(character) not in covered for character in CHARACTERS):
                continue
            names = font["name"]
            family = names.getDebugName(16) or names.getDebugName(1) or path.stem
            images = render(path)
        except Exception as error:  # a broken font breaks in its own way and is left out
            print(f"left out: {path.name}: {error}")
            continue
        if images is None:
            continue
        coarse = images[32:].reshape(62, 16, 2, 16, 2).mean((2, 4)) // 48  # letters at half size in six greys
        digest = hashlib.sha256(coarse.astype(np.uint8).tobytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            yield Face(path.name, family, images)


def family_key(family: str) -> str:
    """The first word of a family's name: DejaVu Sans and DejaVu Serif are kept on one side of the split."""
    first = re.split(r"[\s\-_0-9]", family.strip().lower())[0]
    return re.sub(r"[^a-z]", "", first) or "x"


def split(faces: list[Face]) -> dict[str, list[Face]]:
    """Whole families at random to the test side until it is full, then to the training side."""
    generator = np.random.default_rng(SEED)
    keys = np.array([family_key(face.family) for face in faces])
    families = np.unique(keys)
    generator.shuffle(families)
    sides: dict[str, list[Face]] = {"train": [], "test": []}
    for key in families:
        members = np.flatnonzero(keys == key)
        generator.shuffle(members)
        side = "test" if len(sides["test"]) < TEST_FACES else "train"
        sides[side] += [faces[i] for i in members[:FACES_PER_FAMILY]]
    return {"train": sides["train"][:TRAIN_FACES], "test": sides["test"][:TEST_FACES]}


def build(folder: Path, out: Path) -> None:
    """Write the archive: images, labels and face names of both sides, and the class names."""
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(CHARACTERS)}
    for side, faces in split(list(faces_below(folder))).items():
        print(f"{side}: {len(faces)} faces")
        arrays[f"{side}_images"] = np.concatenate([face.images for face in faces])
        arrays[f"{side}_labels"] = np.tile(np.arange(len(CHARACTERS), dtype=np.uint8), len(faces))
        arrays[f"{side}_faces"] = np.array([face.file for face in faces])
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes the keywords for a flag


def compare(folder: Path, archive: Path) -> None:
    """Render those faces of ``archive`` that ``folder`` has, and print how far they are from it."""
    here = {face.file: face.images for face in faces_below(folder)}
    compared = equal = 0
    worst, differences = 0, []
    with np.load(archive, allow_pickle=False) as content:
        for side in ("train", "test"):
            stored = content[f"{side}_images"].reshape(-1, len(CHARACTERS), SIDE, SIDE)
            for file, images in zip(content[f"{side}_faces"], stored, strict=True):
                if str(file) in here:
                    difference = np.abs(here[str(file)].astype(int) - images)
                    compared, equal = compared + 1, equal + int(not difference.any())
                    worst = max(worst, int(difference.max()))
                    differences.append(difference.mean())
    mean = f", mean difference {np.mean(differences):.3f} of 255, largest {worst}" if differences else ""
    print(f"{compared} faces of {archive.name} are on this machine, {equal} of them equal pixel for pixel{mean}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="where to write the archive, or with --compare the archive to read")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"), help="folder with the fonts")
    parser.add_argument("--compare", action="store_true", help="check the rendering against an archive")
    arguments = parser.parse_args()
    (compare if arguments.compare else build)(arguments.fonts, arguments.out)


if __name__ == "__main__":
    main()
