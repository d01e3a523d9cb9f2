"""Folders of pictures as people have them: each of these layouts is read, or one line says what to do.

python benchmarks/folders.py          prints the table in benchmarks/results/README.md
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from spotkd import SpotkdError
from spotkd.data import load_dataset


def split(
    *folders: str, classes: Sequence[str] = ("ant", "bee"), names: Sequence[str] = ("1.png", "2.png")
) -> list[str]:
    """Files of every class in these folders."""
    return [f"{folder}/{kind}/{name}".lstrip("/") for folder in folders for kind in classes for name in names]


# The files of a layout; those that end in / are empty folders.
LAYOUTS: dict[str, list[str]] = {
    "classes alone": split(""),
    "train alone": split("train"),
    **{f"train, {name}": split("train", name) for name in (
        "val", "valid", "validation", "dev", "devel", "eval", "evaluation", "test", "testing", "holdout", "held_out",
        "Val", "TEST", "val_set", "test-set", "valset", "validation data", "test_images",
    )},
    **{f"{train}, test_set": split(train, "test_set") for train in ("training_set", "Training", "train-images")},
    "train, val, test": split("train", "val", "test"),
    "train, dev, holdout": split("train", "dev", "holdout"),
    "train, test, more": split("train", "test", "more"),
    "val and valid": split("train", "val", "valid"),
    "test without train": split("test"),
    "zip of a Mac": [*split("set/train", "set/val"), *split("__MACOSX/set/train", names=["._1.png"])],
    "one folder around classes": split("pictures"),
    "a class called test": split("", classes=("ant", "test")),
    "classes called train and test": split("", classes=("car", "test", "train")),
    "a class without test pictures": [*split("train"), *split("val", classes=("ant",))],
    "an empty class in val": [*split("train"), *split("val", classes=("ant",)), "val/bee/"],
    "an empty class in train": [*split("train", "val"), "train/cat/"],
    "a class in val alone": [*split("train"), *split("val", classes=("ant", "bee", "cat"))],
    "one class": split("", classes=("ant",)),
    "no classes": ["1.png", "2.png"],
    "nothing": [],
    "jfif, jpe, avif, jp2": split("train", "val", names=["1.jfif", "2.jpe", "3.avif", "4.jp2"]),
    "capital letters": split("train", "val", names=["1.PNG", "2.JPG"]),
    "svg, heic, npy": split("train", "val", names=["1.png", "2.svg", "3.heic", "4.npy"]),
    "pictures beside the classes": [*split("train", "val"), "train/9.png", "9.png"],
    "lists beside the classes": [*split("train", "val"), "train/list.csv", "README.txt"],
    "hidden files": split("train", "val", names=["1.png", ".DS_Store", "._1.png"]),
    "folders in classes": split("train", "val", names=["1.png", "more/2.png"]),
}  # fmt: skip


def write(folder: Path, files: Sequence[str]) -> None:
    content = BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(content, "png")
    folder.mkdir()
    for name in files:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())


def read_all(home: Path) -> list[tuple[str, str, int, str]]:
    """Name of the layout, pictures read for training / test / validation, files that were not read, what was said."""
    rows = []
    for number, (name, files) in enumerate(LAYOUTS.items()):
        folder = home / f"set{number}"
        write(folder, files)
        written = sum(not file.endswith("/") for file in files)
        with redirect_stderr(StringIO()) as said:
            try:
                data = load_dataset(f"folder:{folder}")
            except SpotkdError as error:
                rows.append((name, "", written, str(error).replace(str(folder), "FOLDER")))
                continue
        counts = [len(part) for part in (data.train, data.test, data.val) if part is not None]
        words = "; ".join(said.getvalue().replace(str(folder), "FOLDER").splitlines())
        rows.append((name, " / ".join(map(str, counts)), written - sum(counts), words))
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = read_all(Path(folder))
    print("| layout | training / test / validation | not read | what is said |\n|---|---|---|---|")
    for name, counts, rest, said in rows:
        print(f"| {name} | {counts or 'refused'} | {rest} | {said} |")
    print(f"\n{len(rows)} layouts, {sum(bool(counts) for _, counts, _, _ in rows)} read")


if __name__ == "__main__":
    main()
