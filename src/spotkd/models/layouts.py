"""Where the weights lie in a checkpoint, and by which names: under keys, behind prefixes, beside averaged ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from torch import Tensor

from ..errors import SpotkdError

# Keys under which projects put the state dict, and that of weights which were averaged over the steps.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "params", "weights", "student")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema_model", "ema")
_DEPTH = 4  # dictionaries inside of each other that are looked into
_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # by torch's own wrappers
_COUNTERS = ("n_averaged", "total_ops", "total_params")  # of AveragedModel and thop: no weights

State = dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """The tensors of a checkpoint.

    Attributes:
        tensors: by the names that the file gives them.
        place: the keys that lead to them, joined by dots; empty where they are the file's own.
        averaged: the keys of averaged weights beside them, where those have not been taken.
    """

    tensors: State
    place: str = ""
    averaged: str = ""


def find_state(content: object, path: Path, key: str | None = None) -> Found:
    """The state dict in what a file holds.

    Args:
        content: of the file.
        path: names it in error messages.
        key: where to look: ema for averaged weights, raw for the others, or a key of the file (dots lead deeper).

    Raises:
        SpotkdError: there is none, or none under ``key``.
    """
    places = dict(_find_places(content))
    averaged = [place for place in places if _is_averaged(place)]
    raw = [place for place in places if place not in averaged]
    if key == "ema":
        chosen = averaged
    elif key in (None, "raw"):
        chosen = raw if raw or key == "raw" else averaged
    else:
        chosen = [place for place in places if place == key or place.startswith(f"{key}.")]
    if key is None and len(chosen) > 1 and not any(part in WRAPPERS for part in chosen[0].split(".")) and chosen[0]:
        raise SpotkdError(f"{path}: holds several networks, {', '.join(chosen[:4])}: choose one by checkpoint_key")
    if not chosen and (key is None or not places):
        keys = ", ".join(map(repr, list(content)[:6])) if isinstance(content, Mapping) and content else ""
        raise SpotkdError(
            f"{path}: holds no state dict (neither bare nor under a key such as {' or '.join(WRAPPERS[:3])}"
            f"{f'; it has {keys}' if keys else ''}); save the network's state_dict() instead"
        )
    if not chosen:
        if key not in (None, "raw") and any(
            str(key) in name for name in places[next(iter(places))]
        ):  # a prefix of names, seen to later
            return Found(places[next(iter(places))], next(iter(places)))
        known = ", ".join(place or "its own" for place in list(places)[:8])
        raise SpotkdError(f"{path}: holds no weights by the checkpoint_key {key}; it holds {known}")
    beside = averaged[0] if key is None and averaged and chosen is not averaged else ""
    return Found(places[chosen[0]], chosen[0], beside)


def _is_averaged(place: str) -> bool:
    return any(part in AVERAGED or "ema" in part.lower().split("_") for part in place.split("."))


def _find_places(content: object, place: str = "", depth: int = 0) -> Iterable[tuple[str, State]]:
    """Every state dict, the likeliest first, by its place."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    known = [key for key in (*WRAPPERS, *AVERAGED) if isinstance(content.get(key), Mapping)]
    for key in known:
        yield from _find_places(content[key], f"{place}.{key}".lstrip("."), depth + 1)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and (not known or any(name.endswith("weight") for name in tensors)):
        yield place, tensors
    elif not known:  # under a key of the user's own
        for key, value in content.items():
            inner = dict(_find_places(value, f"{place}.{key}".lstrip("."), depth + 1))
            yield from ((where, state) for where, state in inner.items() if any(n.endswith("weight") for n in state))


@dataclass(frozen=True)
class Fit:
    """Tensors by a network's own names.

    Attributes:
        tensors: those that may be the network's.
        prefix: what stood before all their names.
        left_out: names that stood beside the prefix.
        common: what all names of the file begin with.
    """

    tensors: State
    prefix: str
    left_out: tuple[str, ...]
    common: str


def fit_names(found: State, wanted: Mapping[str, Tensor], path: Path, key: str | None = None) -> Fit:
    """Rename a file's tensors to a network's: without wrappers' names, counters, and a prefix if that makes them fit.

    Args:
        found: the file's tensors.
        wanted: the network's.
        path: names the file in error messages.
        key: takes the prefix that begins so, or averaged ones (ema), where several fit.

    Raises:
        SpotkdError: two tensors have one name, or several prefixes fit equally.
    """
    state: State = {}
    for name, value in found.items():
        plain = name
        for part in _INSERTED:
            plain = plain.replace(part, "")
        if plain.rpartition(".")[2] in _COUNTERS and plain not in wanted:
            continue
        twin = plain.removeprefix("module.")
        if plain in state or (twin != plain and twin in found and twin in wanted):
            raise SpotkdError(f"{path}: holds {twin} twice, with and without 'module.' before it; remove one of them")
        state[plain] = value
    needed = {name: tensor for name, tensor in wanted.items() if not name.endswith("num_batches_tracked")}
    matches = {prefix: _count_matches(state, needed, prefix) for prefix in _list_prefixes(state, needed)}
    most = max(matches.values(), default=0)
    best = [prefix for prefix, count in matches.items() if count == most > 0] or [""]
    prefix = _choose_prefix(best, path, key)
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    left_out = tuple(name for name in state if not name.startswith(prefix))
    outer = _find_common(wanted)
    if most == 0 and outer and all(outer + name in wanted for name in state):  # the network itself has one
        own = {outer + name: value for name, value in state.items()}
    return Fit(own, prefix, left_out, _find_common(state))


def _list_prefixes(state: State, needed: Mapping[str, Tensor]) -> Iterable[str]:
    """What may stand before the network's names; of those in the file that end like one of the first few."""
    prefixes = dict.fromkeys([""])
    for anchor in [*list(needed)[:3], *list(needed)[-3:]]:
        prefixes |= dict.fromkeys(name.removesuffix(anchor) for name in state if name.endswith(f".{anchor}"))
    return prefixes


def _count_matches(state: State, needed: Mapping[str, Tensor], prefix: str) -> int:
    return sum(prefix + name in state for name in needed)


def _choose_prefix(best: list[str], path: Path, key: str | None) -> str:
    if "" in best or len(best) == 1:
        return best[0] if len(best) == 1 else ""
    averaged = [prefix for prefix in best if "ema" in prefix.lower()]
    asked = averaged if key == "ema" else [prefix for prefix in best if key and prefix.startswith(key)]
    chosen = asked or ([] if key not in (None, "raw") else [prefix for prefix in best if prefix not in averaged])
    if len(chosen) != 1:
        raise SpotkdError(
            f"{path}: holds several networks that fit, {', '.join(best)[:200]}: choose one by checkpoint_key, as "
            f"--teacher.checkpoint_key {best[0].rstrip('.')}"
        )
    return chosen[0]


def _find_common(names: Mapping[str, Tensor]) -> str:
    """The dotted beginning that all names have; those of the first and the last in alphabetical order settle it."""
    if len(names) < 2:
        return ""
    first, last = min(names).split(".")[:-1], max(names).split(".")[:-1]
    return "".join(f"{a}." for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
