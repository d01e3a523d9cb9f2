"""The folder and the card for the Hub, and their way to a server that stands in for it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard

from spotkd.cli import main, read
from spotkd.deploy import load_student, open_student
from spotkd.deploy.card import _rows, read_finished
from spotkd.options import DistillOptions

from ..conftest import few_glyphs, instead_of_glyph94, made_once

SMALL = ["--data.limit", "188", "--epochs", "1", "--quiet", "--batch-size", "94"]


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A finished distillation."""
    return made_once("runs to deploy", make_runs, tmp_path_factory, request.config) / "a run"


def make_runs(root: Path) -> None:
    train = ["train", "--model", "resnet14", "--out", str(root / "secret teacher"), *SMALL]
    teacher = ["--teacher", "resnet14", "--teacher.checkpoint", str(root / "secret teacher"), "--min-teacher-top1", "0"]
    with pytest.MonkeyPatch.context() as patch:
        instead_of_glyph94(few_glyphs(188, 94), patch)
        assert main(train) == 0
        own = ["--student", "resnet8", "--distiller", "at", "--strategy", "adaptive", "--out", str(root / "a run")]
        assert main(["distill", *teacher, *own, *SMALL]) == 0


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as an upload of small files needs; keeps what it gets."""

    got: dict[str, bytes] = {}  # noqa: RUF012  # emptied by the fixture
    status = 200

    def do_POST(self) -> None:
        body = self._body()
        address = f"http://{self.headers['Host']}"
        if type(self).status != 200:
            return self._answer({"error": "You are not allowed"}, type(self).status)
        if self.path == "/api/repos/create":
            self.got["create"] = body
            return self._answer({"url": f"{address}/me/first"})
        if self.path == "/api/validate-yaml":
            self.got["checked"] = body
            return self._answer({"errors": [], "warnings": []})
        if self.path.startswith("/api/models/me/first/preupload/main"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._answer({"files": [{"path": path, **regular} for path in paths]})
        assert self.path.startswith("/api/models/me/first/commit/main")
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.got[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._answer({"commitUrl": f"{address}/me/first/commit/1", "commitOid": "1"})

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, 404)

    def _answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(Hub, "got", {})
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_the_folder_is_whole_and_says_what_the_run_noted(
    distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("--card-only needs no network")

    monkeypatch.setattr("socket.socket.connect", connect)
    folder = tmp_path / "to send"
    options = ["--push-to-hub", "me/first", "--card-only", "--license", "apache-2.0", "--out", str(folder)]
    assert main(["export", str(distilled), *options]) == 0
    assert "sent" not in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "config.yaml",
        "student.onnx",
        "student.safetensors",
    }
    text = (folder / "README.md").read_text(encoding="utf-8")
    summary = json.loads((distilled / "summary.json").read_text())
    fields: Any = ModelCard(text).data
    assert (fields.license, fields.library_name, fields.pipeline_tag) == (
        "apache-2.0",
        "spotkd",
        "image-classification",
    )
    (result,) = fields.eval_results
    assert result.metric_value == pytest.approx(summary["scores"]["top1"] / 100, abs=1e-6)
    for fact in (
        "distilled from a resnet14",
        "| strategy | adaptive |",
        "| distiller | at |",
        f"top-1 {summary['scores']['top1']:.2f} %",
        "1 of 1, chosen by: last epoch",
        "times the student's",
        "hf download me/first --local-dir first",
        *(f"{name} {100 * share:.0f} %" for name, share in summary["shares"].items()),
    ):
        assert fact in text
    everything = "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.iterdir())
    assert "secret" not in everything  # where files lie is told to nobody
    assert str(tmp_path) not in everything
    noted = json.loads((folder / "config.json").read_text())
    assert noted["summary"]["scores"] == summary["scores"]
    assert open_student(str(folder)).metadata.classes == tuple(noted["classes"])


def test_the_shown_command_repeats_the_run(distilled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    options = ["--push-to-hub", "me/first", "--card-only", "--format", "safetensors", "--out", str(folder)]
    assert main(["export", str(distilled), *options]) == 0
    command = "spotkd distill --config config.yaml --teacher.checkpoint TEACHER"
    assert f"\n{command}\n" in (folder / "README.md").read_text()
    config = read("distill", ["--config", str(folder / "config.yaml"), "--teacher.checkpoint", "t"])
    assert isinstance(config, DistillOptions)
    original = yaml.safe_load((distilled / "config.yaml").read_text())
    assert (config.student.name, config.seed, config.batch_size) == ("resnet8", original["seed"], 94)
    assert (config.data.limit, config.epochs, config.teacher.name) == (188, 1, "resnet14")


def test_a_trained_network_has_a_card_too(distilled: Path, tmp_path: Path) -> None:
    options = ["--push-to-hub", "me/first", "--card-only", "--format", "safetensors", "--out", str(tmp_path / "x")]
    assert main(["export", str(distilled.parent / "secret teacher"), *options]) == 0
    text = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "trained on labels" in text
    assert "license" not in text
    assert "spotkd train --config config.yaml\n" in text


def test_a_card_says_what_is_white_where_that_is_unusual(distilled: Path) -> None:
    student, (options, summary) = load_student(distilled), read_finished(distilled)
    for white, words in (
        (65535.0, "std 0.35"),
        (4095.0, "std 0.35, white of grey pictures with more than 8 bits 4095"),
    ):
        preprocessing = replace(student.metadata.preprocessing, white=white)
        shown = student._replace(metadata=replace(student.metadata, preprocessing=preprocessing))
        assert dict(_rows(shown, options, summary))["input"].endswith(words)


def test_the_folder_arrives(
    distilled: Path, tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "private.txt").write_text("not ours")
    options = ["--push-to-hub", "me/first", "--private", "--out", str(folder), "--overwrite"]
    options += ["--format", "safetensors"]
    assert main(["export", str(distilled), *options]) == 0
    assert f"sent to {huggingface_hub.constants.ENDPOINT}/me/first" in capsys.readouterr().out
    made = json.loads(hub.got.pop("create"))
    assert (made["name"], made["organization"], made["visibility"]) == ("first", "me", "private")
    assert "library_name: spotkd" in json.loads(hub.got.pop("checked"))["content"]
    assert set(hub.got) == {"README.md", "config.json", "config.yaml", "student.safetensors"}
    for name, content in hub.got.items():
        assert content == (folder / name).read_bytes()


def test_a_refusal_is_one_line_and_the_folder_stays(
    distilled: Path, tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "status", 403)
    options = ["--push-to-hub", "me/first", "--out", str(tmp_path / "x"), "--format", "safetensors"]
    assert main(["export", str(distilled), *options]) == 2
    error = capsys.readouterr().err
    assert "me/first: cannot be sent to the Hub" in error
    assert error.count("\n") == 1
    assert "hf_of_a_test" not in error
    assert (tmp_path / "x" / "README.md").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--push-to-hub", "me"], "give USER/NAME"),
        (["--push-to-hub", "me/a b"], "push_to_hub is me/a b"),
        (["--push-to-hub", "me/x", "--license", "My Own\n- licence"], "write it as the Hub does"),
        (["--card-only"], "card_only has no effect without push_to_hub"),
        (["--license", "mit"], "license has no effect without push_to_hub"),
    ],
)
def test_refusals(
    options: list[str], message: str, distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(distilled), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (distilled / "hub").exists()
    loose = tmp_path / "loose.safetensors"
    loose.write_bytes((distilled / "student.safetensors").read_bytes())
    assert main(["export", str(loose), "--push-to-hub", "me/x", "--card-only"]) == 2
    assert "holds no finished run" in capsys.readouterr().err
