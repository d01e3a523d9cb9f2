"""Good places to cut a network, for those who name none."""

from __future__ import annotations

from collections import Counter
from math import prod

from torch import Tensor, fx, nn

from ..errors import SpotkdError
from ..stages import Shape
from .tracing import ShapeRecorder, Trace, is_channels_last, weight_count

_MAX_MAPS = 5  # cuts proposed among maps
_LARGE = 0.7  # share of the weights above which a module is opened to propose cuts
_TOKEN_GROUPS = 4  # cuts proposed where the resolution never changes


def propose_cuts(probe: nn.Module, images: Tensor) -> list[str]:
    """Good cuts: the last one of each resolution, and the ends of equal groups of blocks where there is only one."""
    trace = _open_largest(probe, Trace(probe, frozenset(), training=False))
    shapes = ShapeRecorder(trace, images).shapes
    end = trace.place[trace.classifier()]
    sound: list[tuple[fx.Node, str]] = []  # cuts at which nothing else crosses
    for path, (node, *more) in trace.calls.items():
        if not more and node in trace.input_dependent and trace.place[node] < end and not trace.crossing_nodes(node):
            sound.append((node, path))
    sound.sort(key=lambda cut: trace.place[cut[0]])
    maps: dict[Shape, list[tuple[fx.Node, str]]] = {}  # by resolution, which only ever falls
    tokens: dict[int, list[tuple[fx.Node, str]]] = {}  # by their number
    for node, path in sound:
        shape = shapes.get(node, ())
        if len(shape) == 3 and shape[1:] != (1, 1):
            size = shape[:2] if is_channels_last(shape) else shape[1:]
            if all(prod(size) <= prod(before) for before in maps):
                maps.setdefault(size, []).append((node, path))
        elif len(shape) == 2:
            tokens.setdefault(shape[0], []).append((node, path))
    if tokens and max(tokens) < 2 * min(tokens):  # a class token more or less
        tokens = {0: [cut for cuts in tokens.values() for cut in cuts]}
    chosen: dict[fx.Node, str] = {}
    for groups in (list(maps.values()), list(tokens.values())):
        if len(groups) == 1:
            chosen.update(_group_ends(probe, groups[0]))
        else:
            ends = [(cuts[-1][0], trace.label(cuts[-1][0])) for cuts in groups]
            chosen.update([*ends[:1], *ends[1:][1 - _MAX_MAPS :]])
    return [chosen[node] for node in sorted(chosen, key=trace.place.__getitem__)]


def _open_largest(root: nn.Module, trace: Trace) -> Trace:
    """Open what holds most of the weights, such as a transformer's encoder: the places to cut are in there."""

    for node in trace.nodes:
        path = trace.openable_path(node)
        if path and weight_count(trace.module(node)) > _LARGE * weight_count(root):
            try:
                return _open_largest(root, Trace(root, trace.opened | {path}, training=False))
            except SpotkdError:
                return trace
    return trace


def _group_ends(root: nn.Module, cuts: list[tuple[fx.Node, str]]) -> list[tuple[fx.Node, str]]:
    """The ends of about equal groups of blocks, the composite leaves of the class that holds the most weights."""
    weights: Counter[type[nn.Module]] = Counter()
    for node, path in cuts:
        module = root.get_submodule(path)
        if node.target == path and any(module.children()):
            weights[type(module)] += weight_count(module)
    heaviest = max(weights, key=weights.__getitem__, default=None)
    blocks = [cut for cut in cuts if type(root.get_submodule(cut[1])) is heaviest] or cuts[-1:]  # no blocks: the last
    return [blocks[-(-len(blocks) * k // _TOKEN_GROUPS) - 1] for k in range(1, _TOKEN_GROUPS + 1)]
