"""Any network as a chain of stages: :func:`stage` cuts it after modules, found in its graph by ``torch.fx``.

Only the code on the way to the cuts is traced. Every other module is a leaf that is called as it is, so control flow
inside blocks is untouched. Each stage becomes a plain function of the root module and of the one tensor that crosses
the cut; it finds modules and parameters by name, and so follows whatever happens to them.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .errors import SpotkdError, one_line
from .registry import unknown_name
from .stages import Rectified, Shape, StagedModel, feature_shapes

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)  # torch's own that compute nothing
_RELU = (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")  # modules, functions and methods, as below
_FLATTEN = (nn.Flatten, torch.flatten, torch.reshape, torch.squeeze, "flatten", "reshape", "view", "squeeze")
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, F.dropout)
_LINEAR = (nn.Linear, F.linear)
_CONSTANT = "_tensor_constant"  # how torch.fx names tensors that the forward itself makes
_Method = tuple[str, tuple[Any, ...]]  # a tensor method and its arguments
# What is done to a tensor that leaves a stage, and undone where the next begins.
_AS_VECTOR: tuple[_Method, _Method] = ("flatten", (1,)), ("unflatten", (1, (-1, 1, 1)))
_CHANNELS_FIRST: tuple[_Method, _Method] = ("permute", (0, 3, 1, 2)), ("permute", (0, 2, 3, 1))
_PROBE = 3  # images in the probing batch: odd
_MAX_MAPS = 5  # cuts proposed among maps
_HEAVY = 0.7  # share of the weights above which a module is opened to propose cuts
_TOKEN_GROUPS = 4  # cuts proposed where the resolution never changes


def stage(model: nn.Module, at: Sequence[str] | None = None, *, image_shape: Shape = (3, 224, 224)) -> StagedModel:
    """Cut ``model`` into stages; the result shares its parameters, buffers and submodules, under the same names.

    Args:
        model: any network from images ``(B, C, H, W)`` to logits ``(B, classes)``. It is left as it is and still works.
        at: the modules after which to cut, in the order of execution, by path (``layer1``, ``blocks.2``), or names of
            nodes of the traced graph, such as ``getitem_5``, to cut after a function. A map ``(C, 1, 1)`` that only a
            flatten or reshape uses is flattened in its own stage, and a map ``(H, W, C)`` of equal sides, as Swin has
            them, leaves its stage as ``(C, H, W)``. The embedding, which is what the last ``nn.Linear``
            is given, is added as the last cut where it is missing; what follows is the classifier. The first stage
            counts as the stem, which most distillers leave out. Without ``at``,
            good cuts are chosen and printed, a line for every stage.
        image_shape: ``(C, H, W)`` of one image. The model is run on noise of this shape, to see that the stages give
            what it gives, and whether one of them overwrites the feature before it; such a stage gets a copy.

    Raises:
        SpotkdError: unknown names (with the near ones), cuts out of order, modules that are called twice or never,
            more than one tensor across a cut, no linear classifier found, code that ``torch.fx`` cannot trace.
    """
    # All probing happens on a twin with the same weights but its own buffers and modes: the original is not touched.
    probe = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    reference = next(model.parameters(), torch.empty(0))
    noise = torch.randn(_PROBE, *image_shape, generator=torch.Generator().manual_seed(0))
    images = noise.to(reference.device, reference.dtype)
    try:
        for training in (False, True):
            _run(_in_mode(probe, training), images)
    except Exception as error:
        reason = f"{one_line(error)[:200]} ({_mode(probe.training)} mode)"
        raise SpotkdError(f"{type(model).__name__} does not run on {_by(image_shape)} images: {reason}") from error
    names = _propose(probe, images) if at is None else [at] if isinstance(at, str) else list(at)
    staged = _cut(model, probe, names, images)
    if at is None:
        print(f"{type(model).__name__} is cut after these modules:")  # noqa: T201  # for the person who asked
        roles = dict(zip(staged.stage_names[-2:], ("embedding", "logits"), strict=True))
        for name, shape in zip(staged.stage_names, feature_shapes(staged, image_shape), strict=True):
            role = roles.get(name) or {3: "map", 2: "tokens"}.get(len(shape), "vector")
            print(f"  {name:32} {_by(shape):>14}  {role}")  # noqa: T201
    return staged


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _mode(training: bool) -> str:
    return "train" if training else "eval"


class _Segment(NamedTuple):
    """One stage as code, ``run(root, x)``; the same as text; whether a ReLU is to follow."""

    run: Callable[[nn.Module, Tensor], Tensor]
    source: str
    rectified: bool

    def bind(self, root: nn.Module) -> Callable[[Tensor], Tensor]:
        body = partial(self.run, root)
        return cast(Callable[[Tensor], Tensor], Rectified(body)) if self.rectified else body


class _Staged(StagedModel):
    """The stages of ``root``, whose parameters, buffers and submodules this module takes as its own.

    The dictionaries themselves are shared, so moving, loading, rebinding and copying either reach both. The code runs
    on ``root``, since a submodule may have the name of one of our methods (``features``, ``stages``).
    """

    def __init__(self, root: nn.Module, names: Sequence[str], segments: dict[bool, tuple[_Segment, ...]]) -> None:
        super().__init__()
        for part in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules", "training"):
            vars(self)[part] = vars(root)[part]
        vars(self)["_root"] = root  # not by assignment, which would register it as a submodule
        self.stage_names = tuple(names)
        self._segments = segments  # for train mode and for eval mode: tracing fixes what depends on self.training

    def get_submodule(self, target: str) -> nn.Module:
        root: nn.Module = vars(self)["_root"]
        return root.get_submodule(target) if target else self

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        root = vars(self)["_root"]
        return tuple(segment.bind(root) for segment in self._segments[self.training])


class _Trace(fx.Tracer):
    """A network's graph in one mode, in which the root, plain Sequentials and the ``opened`` modules are traced."""

    proxy_buffer_attributes = True  # a buffer that traced code reads is looked up in each run

    def __init__(self, root: nn.Module, opened: frozenset[str], training: bool) -> None:
        super().__init__()
        self.opened = opened
        self.calls: dict[str, list[fx.Node | None]] = {}  # for every module the nodes of its outputs, call by call
        self.inside: list[str] = []
        try:
            with torch.enable_grad():
                self.trace(_in_mode(root, training))
        except Exception as error:
            raise SpotkdError(
                f"torch.fx cannot trace the forward of {self.inside[-1] if self.inside else type(root).__name__} "
                f"({one_line(error)[:200]}): cut elsewhere or write a StagedModel by hand"
            ) from error
        self.nodes: list[fx.Node] = list(self.graph.nodes)
        logits = self.nodes[-1].args[0]
        if not isinstance(logits, fx.Node):
            raise SpotkdError(
                f"{type(root).__name__} does not give one tensor in {_mode(training)} mode: switch auxiliary outputs "
                "off or write a StagedModel by hand"
            )
        self.images, self.logits = self.nodes[0], logits
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.varying = {self.images}  # what depends on the images; the rest is recomputed wherever it is used
        for node in self.nodes:
            if not self.varying.isdisjoint(node.all_input_nodes):
                self.varying.add(node)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]  # all else keeps its default

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).forward is not nn.Sequential.forward and module_qualified_name not in self.opened

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        self.inside.append(path)  # stays there after an exception, to be named
        output = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        self.calls.setdefault(path, []).append(output.node if isinstance(output, fx.Proxy) else None)
        return output

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        if kind in ("call_function", "call_method") and self.inside:  # so that opening one renames no node elsewhere
            name = f"{self.inside[-1]}_{getattr(target, '__name__', target)}"
        if not torch.is_grad_enabled():
            raise RuntimeError("tracing forgets torch.no_grad()")
        return super().create_node(kind, target, args, kwargs, name, type_expr)

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def applies(self, kinds: tuple[Any, ...], node: fx.Node) -> bool:
        """Whether ``node`` calls a module of these classes, one of these functions or a method of these names."""
        if node.op == "call_module":
            return isinstance(self.module(node), tuple(kind for kind in kinds if isinstance(kind, type)))
        return node.op in ("call_function", "call_method") and node.target in kinds

    def openable(self, node: fx.Node) -> str | None:
        """The path of the module that ``node`` calls, if it is somebody's own composition of modules."""
        module = self.module(node)
        if module is None or not any(module.children()):
            return None
        bases = [base for base in type(module).__mro__ if base.__module__.startswith("torch.nn")]
        return str(node.target) if all(base in _CONTAINERS for base in bases) else None

    def named(self, name: str) -> fx.Node:
        """The output of the module ``name``, or the node of that name."""
        outputs = self.calls.get(name) or [node for node in self.nodes if node.name == name] or [None]
        if len(outputs) > 1:
            raise SpotkdError(f"cut '{name}': it is called {len(outputs)} times in a forward pass; cut after another")
        if outputs[0] is not None and outputs[0] in self.varying:
            return outputs[0]
        known = [path for path, _ in self.root.named_modules() if path and path.count(".") <= name.count(".")]
        if outputs[0] or name in known:
            raise SpotkdError(f"cut '{name}': the forward pass takes no tensor from it; cut after another module")
        functions = [node.name for node in self.nodes if node.op in ("call_function", "call_method")]
        raise unknown_name("module", name, known + functions)

    def cut(self, name: str, flat: frozenset[str]) -> fx.Node:
        """As :meth:`named`, with the flattening that follows if ``name`` is in ``flat``."""
        node = self.named(name)
        return next(iter(node.users)) if name in flat else node

    def chain(self, names: Sequence[str], flat: frozenset[str]) -> list[fx.Node]:
        """The nodes of all cuts, checked for order and for what else crosses them."""
        cuts = [self.cut(name, flat) for name in names]
        for (first, before), (second, after) in pairwise(zip(names, cuts, strict=True)):
            if self.place[before] >= self.place[after]:
                raise SpotkdError(f"cut '{second}' does not come after '{first}': name cuts in the order of execution")
        for name, cut in zip(names, cuts, strict=True):
            others = ", ".join(self.label(node) for node in self.crossing(cut))
            if others:
                raise SpotkdError(
                    f"cut '{name}': more than one tensor crosses it, also used after it: {others}; "
                    "cut where only one tensor goes on"
                )
        return cuts

    def crossing(self, cut: fx.Node) -> list[fx.Node]:
        """What else is computed from the images before ``cut`` and used after it."""
        place = self.place[cut]
        return [
            node
            for node in self.nodes[:place]
            if node in self.varying
            and not self.is_batch_size(node)
            and any(self.place[user] > place for user in node.users)
        ]

    def is_batch_size(self, node: fx.Node) -> bool:
        """Whether ``node`` is the images' first dimension, which every stage can read off its own input."""
        if (node.target, node.args) == ("size", (self.images, 0)):
            return True
        shape = node.args[0] if node.target is operator.getitem and node.args[1:] == (0,) else None
        return isinstance(shape, fx.Node) and (shape.target, shape.args) in (
            ("size", (self.images,)),
            (getattr, (self.images, "shape")),
        )

    def label(self, node: fx.Node) -> str:
        """The outermost module whose output ``node`` is, or the name of the node."""
        return min((path for path, outputs in self.calls.items() if outputs == [node]), key=len, default=node.name)

    def flattens(self, name: str, shapes: dict[fx.Node, Shape]) -> bool:
        """Whether the output of ``name`` is a map ``(C, 1, 1)`` that is only made a vector."""
        node = self.named(name)
        if shapes.get(node, ())[1:] != (1, 1) or len(node.users) != 1:
            return False
        user = next(iter(node.users))
        return self.applies(_FLATTEN, user) and len(shapes[user]) == 1

    def classifier(self) -> fx.Node:
        """The last linear layer on the chain to the logits, or else the node where the chain cannot be followed on."""
        node = self.logits
        while not self.is_linear(node) and not any((self.module(node) or nn.Identity()).children()):
            before = [other for other in node.all_input_nodes if other in self.varying]
            if len(before) != 1:
                break
            node = before[0]
        return node

    def embeddings(self) -> list[fx.Node]:
        """What the classifier is given and, going back, the same before each dropout and identity."""
        nodes = [self.classifier().all_input_nodes[0]]
        while self.applies((*_DROPOUT, nn.Identity), nodes[-1]):
            nodes.append(nodes[-1].all_input_nodes[0])
        return nodes

    def has_weights_after(self, cut: fx.Node) -> bool:
        later = self.nodes[self.place[cut] + 1 :]
        return any(node.op == "get_attr" or _size(self.module(node)) for node in later)

    def is_linear(self, node: fx.Node) -> bool:
        module = self.module(node)
        return self.applies(_LINEAR, node) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))

    def is_relu(self, node: fx.Node) -> bool:
        """Whether ``node`` is a ReLU and alone in using what stands before it."""
        return self.applies(_RELU, node) and len(node.all_input_nodes[0].users) == 1


_Traces = dict[bool, _Trace]  # in train mode and in eval mode


def _size(module: nn.Module | None) -> int:
    """The number of weights."""
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


def _in_mode(root: nn.Module, training: bool) -> nn.Module:
    for module in root.modules():
        module.training = training  # not by train(), which a model may have made its own
    return root


def _run(function: Callable[[Tensor], Any], images: Tensor) -> Any:
    """What ``function`` makes of the images, always with the same random numbers, which it takes from nobody."""
    with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
        return function(images.clone())


def _trace(root: nn.Module, opened: frozenset[str]) -> _Traces:
    return {training: _Trace(root, opened, training) for training in (True, False)}


def _open(
    root: nn.Module, traces: _Traces, find: Callable[[_Trace], fx.Node], wanted: Callable[[_Trace, fx.Node], bool]
) -> _Traces:
    """Open the module called at ``find``, deeper and deeper, until a ``wanted`` node shows; if none does, leave all."""
    deeper = traces
    while not wanted(deeper[False], find(deeper[False])):
        path = deeper[False].openable(find(deeper[False]))
        if path is None:
            return traces
        try:
            deeper = _trace(root, deeper[False].opened | {path})
        except SpotkdError:
            return traces
    return deeper


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor of a graph, without the batch dimension."""

    def __init__(self, trace: _Trace, images: Tensor) -> None:
        super().__init__(_in_mode(trace.root, False), graph=trace.graph)
        self.shapes: dict[fx.Node, Shape] = {}
        _run(self.run, images)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape[1:])
        return value


def _cut(model: nn.Module, probe: nn.Module, names: list[str], images: Tensor) -> StagedModel:
    """The stages of ``model`` that end at ``names`` and at the embedding, worked out on its twin ``probe``."""
    parts = [name.split(".") for name in names if name in dict(probe.named_modules())]
    ancestors = frozenset(".".join(path[:depth]) for path in parts for depth in range(1, len(path)))
    traces = _open(probe, _trace(probe, ancestors), _Trace.classifier, _Trace.is_linear)
    trace = traces[False]
    shapes = _Shapes(trace, images).shapes
    flat = frozenset(name for name in names if trace.flattens(name, shapes))
    cuts = trace.chain(names, flat)
    if cuts and not trace.has_weights_after(cuts[-1]):
        raise SpotkdError(f"cut '{names[-1]}' leaves no classifier after it: let the last cut be before the classifier")
    classifier = trace.classifier()
    linear = trace.is_linear(classifier) and not (cuts and trace.place[cuts[-1]] >= trace.place[classifier])
    if not linear:  # then the last cut that the caller names is the embedding
        classifier = trace.logits
    elif not (cuts and cuts[-1] in trace.embeddings()):
        cuts.append(next(node for node in trace.embeddings() if not trace.applies(_DROPOUT, node)))
        names = [*names, trace.label(cuts[-1])]
    shape = shapes.get(cuts[-1], ()) if cuts else ()
    squeezed = linear and shape[1:] == (1, 1)  # the classifier is a 1x1 convolution
    if len(shape) != 1 and not squeezed:
        raise SpotkdError(
            f"{type(model).__name__} does not end in an nn.Linear on a vector that could be found: name as last cut "
            "the module before the classifier, one that gives (B, D), or write a StagedModel by hand"
        )
    forms = [_CHANNELS_FIRST if _is_channels_last(shapes.get(cut, ())) else None for cut in cuts]
    if squeezed:
        forms[-1] = _AS_VECTOR
    stage_names = [*names, str(classifier.target) if classifier.op == "call_module" else classifier.name]
    for name in names:  # a ReLU that ends the last block before a cut is to be seen
        traces = _open(probe, traces, partial(_Trace.cut, name=name, flat=flat), _Trace.is_relu)
    chains = {training: trace.chain(names, flat) for training, trace in traces.items()}

    def segments(copying: dict[bool, set[int]]) -> dict[bool, tuple[_Segment, ...]]:
        made = {}
        for training, trace in traces.items():
            ends = [trace.images, *chains[training], trace.logits]
            made[training] = tuple(
                _segment(trace, start, stop, k in copying[training], entering, leaving)
                for k, ((start, stop), entering, leaving) in enumerate(
                    zip(pairwise(ends), [None, *forms], [*forms, None], strict=True)
                )
            )
        same = all(one.source == other.source for one, other in zip(made[True], made[False], strict=True))
        return {True: made[False], False: made[False]} if same else made

    staged = _Staged(probe, stage_names, segments({True: set(), False: set()}))
    copying = {training: _check(staged, probe, images, training) for training in (False, True)}
    root = copy.copy(model)  # shares its dictionaries of tensors and modules
    used = {str(node.target) for trace in traces.values() for node in trace.nodes if node.op == "get_attr"}
    constants = {name: getattr(probe, name) for name in used if name.startswith(_CONSTANT)}
    if constants:  # as buffers, so that they follow the model to a device
        root._buffers = {**root._buffers, **constants}
        root._non_persistent_buffers_set = root._non_persistent_buffers_set | constants.keys()
    return _Staged(root, stage_names, segments(copying))


def _is_channels_last(shape: Shape) -> bool:
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]


def _segment(
    trace: _Trace,
    start: fx.Node,
    stop: fx.Node,
    copying: bool,
    entering: tuple[_Method, _Method] | None,
    leaving: tuple[_Method, _Method] | None,
) -> _Segment:
    """The code from ``start`` to ``stop``, without a final ReLU.

    It copies its input if it would overwrite it, undoes the form ``entering`` and gives its output that of ``leaving``.
    """
    graph = fx.Graph()
    known = {start: graph.placeholder("x")}
    if copying:
        known[start] = graph.call_method("clone", (known[start],))
    if entering is not None:
        method, arguments = entering[1]
        known[start] = graph.call_method(method, (known[start], *arguments))

    def load(node: fx.Node) -> fx.Node:
        if node not in known and trace.is_batch_size(node):
            known[node] = graph.call_method("size", (known[start], 0))
        elif node not in known:
            known[node] = graph.node_copy(node, load)
        return known[node]

    rectified = trace.is_relu(stop)
    end = -1 if stop is trace.logits else trace.place[stop] + 1
    for node in trace.nodes[trace.place[start] + 1 : end]:  # used or not: some work in place
        if (node in trace.varying or not node.users) and not (rectified and node is stop):
            load(node)
    output = load(stop.all_input_nodes[0] if rectified else stop)
    if leaving is not None:
        method, arguments = leaving[0]
        output = graph.call_method(method, (output, *arguments))
    graph.output(output)
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(code.src, scope)
    return _Segment(scope["forward"], code.src, rectified)


def _check(staged: StagedModel, probe: nn.Module, images: Tensor, training: bool) -> set[int]:
    """The stages that overwrite what they are given; an error if together they do not give what the model gives."""
    expected = _run(_in_mode(probe, training), images)
    again = _run(probe, images)  # what differs though the random numbers are the same cannot be compared
    staged.training = training
    overwriting: set[int] = set()

    def watch(x: Tensor) -> Tensor:
        outputs = [x]
        for k, run in enumerate(staged.stages()):
            versions = [output._version for output in outputs]
            outputs.append(run(outputs[-1]))
            if not isinstance(outputs[-1], Tensor) or len(outputs[-1]) != _PROBE:
                raise SpotkdError(f"cut '{staged.stage_names[k]}' gives no tensor with the batch first: cut elsewhere")
            if versions != [output._version for output in outputs[:-1]]:
                overwriting.add(k)
        return outputs[-1]

    given = _run(watch, images)
    close = partial(torch.allclose, rtol=1e-4, atol=1e-4 * float(expected.abs().max()), equal_nan=True)
    if close(expected, again) and not (given.shape == expected.shape and close(given, expected)):
        raise SpotkdError(
            f"{type(probe).__name__} in stages differs from the whole in {_mode(training)} mode: its forward decides "
            "by something that tracing fixes; cut elsewhere or write a StagedModel by hand"
        )
    return overwriting


def _propose(probe: nn.Module, images: Tensor) -> list[str]:
    """Good cuts: the last one of each resolution, and the ends of equal groups of blocks where there is only one."""
    trace = _open_heavy(probe, _Trace(probe, frozenset(), training=False))
    shapes = _Shapes(trace, images).shapes
    end = trace.place[trace.classifier()]
    sound: list[tuple[fx.Node, str]] = []  # cuts at which nothing else crosses
    for path, (node, *more) in trace.calls.items():
        if not more and node in trace.varying and trace.place[node] < end and not trace.crossing(node):
            sound.append((node, path))
    sound.sort(key=lambda cut: trace.place[cut[0]])
    maps: dict[Shape, list[tuple[fx.Node, str]]] = {}  # by resolution, which only ever falls
    tokens: dict[int, list[tuple[fx.Node, str]]] = {}  # by their number
    for node, path in sound:
        shape = shapes.get(node, ())
        if len(shape) == 3 and shape[1:] != (1, 1):
            size = shape[:2] if _is_channels_last(shape) else shape[1:]
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


def _open_heavy(root: nn.Module, trace: _Trace) -> _Trace:
    """Open what holds most of the weights, such as a transformer's encoder: the places to cut are in there."""

    for node in trace.nodes:
        path = trace.openable(node)
        if path and _size(trace.module(node)) > _HEAVY * _size(root):
            try:
                return _open_heavy(root, _Trace(root, trace.opened | {path}, training=False))
            except SpotkdError:
                return trace
    return trace


def _group_ends(root: nn.Module, cuts: list[tuple[fx.Node, str]]) -> list[tuple[fx.Node, str]]:
    """The ends of about equal groups of blocks, the composite leaves of the class that holds the most weights."""
    weights: Counter[type[nn.Module]] = Counter()
    for node, path in cuts:
        module = root.get_submodule(path)
        if node.target == path and any(module.children()):
            weights[type(module)] += _size(module)
    heaviest = max(weights, key=weights.__getitem__, default=None)
    blocks = [cut for cut in cuts if type(root.get_submodule(cut[1])) is heaviest] or cuts[-1:]  # no blocks: the last
    return [blocks[-(-len(blocks) * k // _TOKEN_GROUPS) - 1] for k in range(1, _TOKEN_GROUPS + 1)]
