"""What is measured is what closed forms say where there are any, and goes to the terminal and to files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from spotkd import create_model
from spotkd.cli import main
from spotkd.options import ProfileOptions
from spotkd.profiling import activation_bytes, count_flops, interleaved, profile

SMALL = ["--batch-size", "4", "--rounds", "2", "--image-shape", "[3,8,8]", "--classes", "5"]


def test_operations_and_activations_of_a_network_known_by_hand() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 100), nn.ReLU(), nn.Linear(100, 10))
    images = torch.randn(7, 3, 4, 4)
    assert count_flops(network, images[:1]) == 2 * (48 * 100 + 100 * 10)
    # The flattened images share their storage; at the ReLU its input and its output are alive.
    assert activation_bytes(network, images) == 4 * 7 * (100 + 100)
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert count_flops(convolution, images[:1]) == 2 * 3 * 8 * 9 * 16
    assert activation_bytes(convolution, images) == 4 * 7 * 8 * 16


def test_activations_do_not_add_up_over_the_depth() -> None:
    layers = [module for _ in range(20) for module in (nn.Linear(10, 10), nn.ReLU())]
    images = torch.randn(5, 10)
    assert (
        activation_bytes(nn.Sequential(*layers), images)
        == activation_bytes(nn.Sequential(*layers[:4]), images)
        == 4 * 5 * 20
    )


def test_measurements_are_interleaved() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, torch.device("cpu"))
    assert order == ["a", "b"] * 5
    assert [len(values) for values in times.values()] == [3, 3]


def test_several_students_and_what_does_not_fit() -> None:
    config = ProfileOptions(
        "resnet14",
        ["resnet8", "resnet8x4"],
        image_shape=[3, 8, 8],
        classes=5,
        distillers="fsp",
        strategies="always,joint",
        batch_size=4,
        rounds=2,
    )
    told: list[str] = []
    result = profile(config, told.append)
    assert told == ["networks", "resnet8: fsp", "resnet8x4: fsp"]
    assert [network.name for network in result.networks] == ["resnet14", "resnet8", "resnet8x4"]
    for network in result.networks:
        model = create_model(network.name, 5)
        assert network.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert network.flops == count_flops(model.eval(), torch.zeros(1, 3, 8, 8))
        assert 0 < network.one.lowest <= network.one.median <= network.one.highest
        assert network.one.n == network.batch.n == 2
    fits, wide = result.steps[:2], result.steps[2:]
    assert [(step.student, step.distiller, step.strategy) for step in fits] == [
        ("resnet8", "fsp", "always"),
        ("resnet8", "fsp", "joint"),
    ]
    for step in fits:
        assert step.to_kd is not None
        assert step.to_kd.n == 2
    assert all(step.milliseconds is None and "channels" in str(step.problem) for step in wide)


def test_tables_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--csv", str(tmp_path / "a b.csv"), "--json", str(tmp_path / "x.json")]
    assert main(["profile", "resnet14", "resnet8", "--distillers", "kd,at", *SMALL, *files]) == 0
    printed = capsys.readouterr().out
    lines = [line.split()[:3] for line in printed.splitlines()]
    for words in (["resnet14"], ["resnet8"], ["resnet8", "at", "adaptive"], ["resnet8", "kd", "always"]):
        assert any(line[: len(words)] == words for line in lines)
    assert "\x1b" not in printed
    noted = json.loads((tmp_path / "x.json").read_text())
    with (tmp_path / "a b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert noted["image_shape"] == [3, 8, 8]
    (steps,) = [step for step in noted["steps"] if (step["distiller"], step["strategy"]) == ("at", "adaptive")]
    (row,) = [
        row for row in rows if (row["distiller"], row["strategy"], row["quantity"]) == ("at", "adaptive", "ms_a_step")
    ]
    assert {key: float(row[key]) for key in steps["milliseconds"]} == steps["milliseconds"]
    flops = {row["network"]: float(row["median"]) for row in rows if row["quantity"] == "flops"}
    assert flops == {network["name"]: network["flops"] for network in noted["networks"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["resnet8", "resnet7"], "unknown model 'resnet7'"),
        (["resnet8"], "students"),
        (["resnet8", "resnet8", "--distillers", "att"], "unknown distiller 'att'"),
        (["resnet8", "resnet8", "--strategies", "allways"], "unknown strategy 'allways': did you mean always"),
        (["resnet8", "resnet8", "--rounds", "0"], "rounds is 0"),
        (["resnet8", "resnet8", "--image-shape", "[3,8]"], "image_shape is [3, 8]"),
    ],
)
def test_refusals_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_networks_alone_need_no_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "resnet14", "resnet8", "--distillers", "none", *SMALL]) == 0
    assert "plain KD" not in capsys.readouterr().out
