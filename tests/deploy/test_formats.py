"""Every network in every format gives the logits of the student itself, for any number of images."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from spotkd import MODELS, SpotkdError
from spotkd.data import Preprocessing
from spotkd.deploy import FORMATS, Student, StudentMetadata
from spotkd.deploy.export import compare_logits, write_student
from spotkd.deploy.formats import as_classifier
from spotkd.deploy.metadata import check_metadata, parse_metadata, public_data_name
from spotkd.models import build_model

from .. import vision  # noqa: F401  # torchvision and timm, whichever build of torch
from ..conftest import TinyNet, randomise_statistics

CLASSES = ("<script>", "a b", "=1+1", "ünïcödé", "e")
METADATA = StudentMetadata(
    "tiny", "glyph94", CLASSES, Preprocessing((8, 8), (0.2,), (0.35,), "grey"), 81.5, "last epoch"
)
# One of each family and kind of block; the others are deeper or wider, and take CI minutes.
FAMILIES = [
    *("resnet8", "resnet8x4", "ResNet18", "ResNet50", "wrn_16_1", "wrn_16_2", "vgg8", "vgg8-imagenet"),
    *("MobileNetV2_0_5", "ShuffleNetV1", "ShuffleNetV2"),
]
FOREIGN = ("torchvision:mobilenet_v3_small", "timm:vit_tiny_patch16_224")


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    network = TinyNet()
    randomise_statistics(network)
    return Student(network.eval(), METADATA)


def of(name: str) -> Student:
    """A network with statistics and scales as a trained one has them, on small images."""
    edge = 64 if name.endswith("-imagenet") or ":" in name else 32
    torch.manual_seed(0)
    network = build_model(name, 5, image_shape=(3, edge, edge))
    randomise_statistics(network)
    rgb = Preprocessing((edge, edge), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    return Student(network.eval(), dataclasses.replace(METADATA, model=name, preprocessing=rgb))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *FOREIGN])
@pytest.mark.parametrize("format_name", ["onnx", "torch-export"])
def test_logits_are_the_students(name: str, format_name: str, tmp_path: Path) -> None:
    student = of(name)
    path = tmp_path / f"a student{FORMATS[format_name].suffix}"
    FORMATS[format_name].write(student, path)
    logits, metadata = FORMATS[format_name].read(path)
    assert metadata == student.metadata
    for size in (1, 3, 8):
        images = torch.randn(size, *student.metadata.preprocessing.image_shape)
        with torch.no_grad():
            expected = student.network(images)
        scale = expected.abs().max().item()
        assert scale > 1e-3  # or a file of zeros would do
        assert (logits(images) - expected).abs().max() <= 1e-4 * max(1, scale)


@pytest.mark.slow
def test_every_network_is_of_a_family_that_is_exported() -> None:
    """What no family is made of is a new kind of network, and belongs among them."""

    def parts(name: str) -> set[str]:
        with torch.device("meta"):
            return {type(module).__qualname__ for module in MODELS[name](5).modules()}

    exported = set().union(*map(parts, FAMILIES))
    assert {name: new for name in MODELS if (new := parts(name) - exported)} == {}


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
def test_metadata_and_paths_go_round(
    format_name: str, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", lambda classes: TinyNet(num_classes=classes))
    path = tmp_path / "new folder" / f"of mine ü{FORMATS[format_name].suffix}"
    written = write_student(student, format_name, path)
    assert written.difference <= 1e-5
    assert FORMATS[format_name].read(path).metadata == METADATA
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(SpotkdError, match="already exists"):
        write_student(student, format_name, path)
    write_student(student, format_name, path, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "torch-export"])
def test_a_file_that_differs_is_not_left(format_name: str, student: Student, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[format_name].suffix}"

    class Counting(nn.Module):
        """Gives other logits at every call, and is traced as of one call."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = nn.Linear(3, 5), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.fc(x.mean((2, 3))) + self.calls

    with pytest.raises(SpotkdError, match="differ from the student's by"):
        write_student(Student(Counting().eval(), METADATA), format_name, path)
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_a_difference(student: Student) -> None:
    broken = as_classifier(student)._replace(logits=lambda images: torch.full((len(images), 5), torch.nan))
    assert compare_logits(student, as_classifier(student)) == 0
    with pytest.raises(SpotkdError, match="differ"):
        compare_logits(student, broken)
    with pytest.raises(SpotkdError, match="metadata"):
        compare_logits(student, as_classifier(student)._replace(metadata=dataclasses.replace(METADATA, model="other")))


def test_a_network_that_no_exporter_takes(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if float(x.sum().item()) > 0 else x.amax((2, 3))

    with pytest.raises(SpotkdError, match="cannot be written as torch-export") as error:
        write_student(Student(Branching().eval(), METADATA), "torch-export", tmp_path / "x.pt2")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_name", ["onnx", "torch-export"])
@pytest.mark.parametrize("content", [b"", b"no", b"PK\x03\x04" + bytes(100)])
def test_damaged_files_are_told_on_one_line(format_name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[format_name].suffix}"
    path.write_bytes(content)
    with pytest.raises(SpotkdError, match=r"x\.(onnx|pt2): ") as error:
        FORMATS[format_name].read(path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_onnx_file_may_not_read_others(student: Student, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "x.onnx"
    write_student(student, "onnx", path)
    assert FORMATS["onnx"].read(path).logits(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    model = onnx.load(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save_model(model, str(path), save_as_external_data=True, location="secret", size_threshold=0)
    with pytest.raises(SpotkdError, match="weights lie in other files"):
        FORMATS["onnx"].read(path)


@pytest.mark.slow
def test_an_onnx_file_of_others_has_no_metadata(student: Student, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "x.onnx"
    write_student(student, "onnx", path)
    model = onnx.load(str(path))
    assert [entry.key for entry in model.metadata_props] == ["spotkd"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("images", "logits")
    assert shape[0].dim_param == "batch"
    del model.metadata_props[:]
    onnx.save(model, str(path))
    with pytest.raises(SpotkdError, match="holds no metadata of a student"):
        FORMATS["onnx"].read(path)


def test_metadata_of_strangers_are_checked() -> None:
    good = METADATA.as_dict()
    assert check_metadata(good, "x") == parse_metadata(METADATA.as_json(), "x") == METADATA
    wrong: list[tuple[str, object]] = [
        ("model", 3),
        ("model", ""),
        ("data", "x" * 2000),
        ("classes", []),
        ("classes", "abc"),
        ("classes", ["a", None]),
        ("test_top1", "99"),
        ("test_top1", float("nan")),
        ("protocol", []),
        ("preprocessing", None),
        *(
            ("preprocessing", good["preprocessing"] | change)
            for change in (
                {"size": (8,)},
                {"size": (8, 1_000_000)},
                {"size": (8, True)},
                {"mean": [0.1, 0.2]},
                {"mean": ["0"]},
                {"std": [0.0]},
                {"std": [float("inf")]},
                {"colour": "grey", "mean": [0.1, 0.1, 0.1]},
                {"colour": "cmyk"},
                {"resize": "margin"},
            )
        ),
    ]
    for key, value in wrong:
        with pytest.raises(SpotkdError, match=key):
            check_metadata(good | {key: value}, "x")
    for content in ("", "[1]", "{", "[" * 100_000):
        with pytest.raises(SpotkdError, match="x: "):
            parse_metadata(content, "x")


def test_where_a_folder_lies_is_nobody_elses_affair() -> None:
    assert public_data_name("folder:/home/somebody/birds") == "folder:birds"
    assert [public_data_name(name) for name in ("glyph94", "hf:user/name")] == ["glyph94", "hf:user/name"]
