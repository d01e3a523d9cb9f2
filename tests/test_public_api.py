"""The public API is the one in tests/golden/api.json; see tests/golden/make_api.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import spotkd

from .golden.make_api import COMMAND, FILE, describe_api

HINT = (
    f"If that is meant, run '{COMMAND}' and tell of it in CHANGELOG.md. A name that goes keeps an alias that warns for "
    "one release."
)


def differences(was: Any, now: Any, place: str = "spotkd") -> Iterator[str]:
    """A line for every name that is missing, new or changed."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            if key not in now:
                yield f"{place}.{key} is gone: {json.dumps(was[key])}"
            elif key not in was:
                yield f"{place}.{key} is new: {json.dumps(now[key])}"
            else:
                yield from differences(was[key], now[key], f"{place}.{key}")
    elif was != now:
        yield f"{place} was {json.dumps(was)} and is {json.dumps(now)}"


def check_api() -> None:
    changed = list(differences(json.loads(FILE.read_text(encoding="utf-8")), describe_api()))
    if changed:
        pytest.fail(
            "\n".join(["the public API is not the one in tests/golden/api.json:", *changed, HINT]), pytrace=False
        )


def test_the_public_api_is_as_noted() -> None:
    check_api()


def test_a_change_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotkd.SpotKD, "start_epoch", lambda self, epoch: None)
    monkeypatch.setattr(spotkd.Loader, "rewind", lambda self: None, raising=False)
    monkeypatch.delattr(spotkd.Strategy, "teacher_probability")
    monkeypatch.setattr(spotkd, "__all__", [name for name in spotkd.__all__ if name != "stage"])
    with pytest.raises(pytest.fail.Exception) as found:
        check_api()
    lines = str(found.value).splitlines()
    for expected in (
        "spotkd.SpotKD.members.start_epoch was ",
        "spotkd.Loader.members.rewind is new: ",
        "spotkd.Strategy.members.teacher_probability is gone: ",
        "spotkd.stage is gone: ",
    ):
        assert any(line.startswith(expected) for line in lines), expected
    assert "python tests/golden/make_api.py" in lines[-1]
    assert "CHANGELOG.md" in lines[-1]
