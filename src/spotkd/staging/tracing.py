"""A network's graph by ``torch.fx``: what each module is given and gives, and which tensors cross a cut.

Only the code on the way to the cuts is traced. Every other module is a leaf that is called as it is, so control flow
inside blocks is untouched.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..errors import SpotkdError, one_line
from ..registry import unknown_name
from ..stages import Shape
from .factories import recorded_factories
from .frozen import Reads, UntraceableForwardError, find_caller, keep_generators, record_reads, refuse_random

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)  # torch's own that compute nothing
_RELU = (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")  # modules, functions and methods, as below
_FLATTEN = (nn.Flatten, torch.flatten, torch.reshape, torch.squeeze, "flatten", "reshape", "view", "squeeze")
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, F.dropout)
_LINEAR = (nn.Linear, F.linear)
CONSTANT_PREFIX = "_tensor_constant"  # how torch.fx names tensors that the forward itself makes


def mode_name(training: bool) -> str:
    return "train" if training else "eval"


class Trace(fx.Tracer):
    """A network's graph in one mode, in which the root, plain Sequentials and the ``opened`` modules are traced."""

    proxy_buffer_attributes = True  # a buffer that traced code reads is looked up in each run

    def __init__(self, root: nn.Module, opened: frozenset[str], training: bool, *, with_lines: bool = False) -> None:
        super().__init__()
        self.lines: dict[fx.Node, str] | None = {} if with_lines else None  # where each node comes from
        self.opened = opened
        self.calls: dict[str, list[fx.Node | None]] = {}  # for every module the nodes of its outputs, call by call
        self.inside: list[str] = []
        self.reads: Reads = {}  # numbers and texts in attributes that the graph depends on
        set_mode(root, training)
        try:
            traced = [root, *(root.get_submodule(path) for path in opened)]
            make_graph = partial(self._make_graph, root)
            with torch.enable_grad(), refuse_random(root, make_graph), record_reads(root, traced, self.reads):
                make_graph()
        except SpotkdError:
            raise
        except Exception as error:
            raise UntraceableForwardError(
                f"torch.fx cannot trace the forward of {self.inside[-1] if self.inside else type(root).__name__} "
                f"({one_line(error)[:200]}): cut elsewhere or write a StagedModel by hand"
            ) from error
        self.nodes: list[fx.Node] = list(self.graph.nodes)
        logits = self.nodes[-1].args[0]
        if not isinstance(logits, fx.Node):
            raise SpotkdError(
                f"{type(root).__name__} does not give one tensor in {mode_name(training)} mode: switch auxiliary "
                "outputs off or write a StagedModel by hand"
            )
        self.images, self.logits = self.nodes[0], logits
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.input_dependent = {self.images}  # what depends on the images; the rest is recomputed wherever it is used
        for node in self.nodes:
            if not self.input_dependent.isdisjoint(node.all_input_nodes):
                self.input_dependent.add(node)

    def _make_graph(self, root: nn.Module) -> None:
        with recorded_factories():
            self.trace(root)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]  # all else keeps its default

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        forward = inspect.getattr_static(type(m), "forward", None)  # of a scripted one the attribute is an error
        return forward is not nn.Sequential.forward and module_qualified_name not in self.opened

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        self.inside.append(path)  # stays there after an exception, for the message
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
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if self.lines is not None:
            self.lines[node] = find_caller()
        return node

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def applies(self, kinds: tuple[Any, ...], node: fx.Node) -> bool:
        """Whether ``node`` calls a module of these classes, one of these functions or a method of these names."""
        if node.op == "call_module":
            return isinstance(self.module(node), tuple(kind for kind in kinds if isinstance(kind, type)))
        return node.op in ("call_function", "call_method") and node.target in kinds

    def openable_path(self, node: fx.Node) -> str | None:
        """The path of the module that ``node`` calls, if it is a user's own composition of modules."""
        module = self.module(node)
        if module is None or not any(module.children()):
            return None
        bases = [base for base in type(module).__mro__ if base.__module__.startswith("torch.nn")]
        return str(node.target) if all(base in _CONTAINERS for base in bases) else None

    def node_named(self, name: str) -> fx.Node:
        """The output of the module ``name``, or the node of that name."""
        outputs = self.calls.get(name) or [node for node in self.nodes if node.name == name] or [None]
        if len(outputs) > 1:
            raise SpotkdError(f"cut '{name}': it is called {len(outputs)} times in a forward pass; cut after another")
        if outputs[0] is not None and outputs[0] in self.input_dependent:
            return outputs[0]
        known = [path for path, _ in self.root.named_modules() if path and path.count(".") <= name.count(".")]
        if outputs[0] or name in known:
            raise SpotkdError(f"cut '{name}': the forward pass takes no tensor from it; cut after another module")
        functions = [node.name for node in self.nodes if node.op in ("call_function", "call_method")]
        raise unknown_name("module", name, known + functions)

    def cut_node(self, name: str, flat: frozenset[str]) -> fx.Node:
        """As :meth:`node_named`, with the flattening that follows if ``name`` is in ``flat``."""
        node = self.node_named(name)
        return next(iter(node.users)) if name in flat else node

    def cut_nodes(self, names: Sequence[str], flat: frozenset[str]) -> list[fx.Node]:
        """The nodes of all cuts, checked for order and for what else crosses them."""
        cuts = [self.cut_node(name, flat) for name in names]
        for (first, before), (second, after) in pairwise(zip(names, cuts, strict=True)):
            if self.place[before] >= self.place[after]:
                raise SpotkdError(f"cut '{second}' does not come after '{first}': name cuts in the order of execution")
        for name, cut in zip(names, cuts, strict=True):
            others = ", ".join(self.label(node) for node in self.crossing_nodes(cut))
            if others:
                raise SpotkdError(
                    f"cut '{name}': more than one tensor crosses it, also used after it: {others}; "
                    "cut where only one tensor crosses"
                )
        return cuts

    def crossing_nodes(self, cut: fx.Node) -> list[fx.Node]:
        """What else is computed from the images before ``cut`` and used after it."""
        place = self.place[cut]
        return [
            node
            for node in self.nodes[:place]
            if node in self.input_dependent
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
        node = self.node_named(name)
        if shapes.get(node, ())[1:] != (1, 1) or len(node.users) != 1:
            return False
        user = next(iter(node.users))
        return self.applies(_FLATTEN, user) and len(shapes[user]) == 1

    def classifier(self) -> fx.Node:
        """The last linear layer on the chain to the logits, or else the node where the chain cannot be followed on."""
        node = self.logits
        while not self.is_linear(node) and not any((self.module(node) or nn.Identity()).children()):
            before = [other for other in node.all_input_nodes if other in self.input_dependent]
            if len(before) != 1:
                break
            node = before[0]
        return node

    def shared_input(self, shapes: dict[fx.Node, Shape]) -> fx.Node | None:
        """The last vector from which alone the logits are computed, by several heads; or else the last tokens from
        which linear heads alone compute them, as where each has a token of its own (distilled DeiT).
        """
        before = self.nodes[: self.place[self.logits]]
        for size, heads_fit in ((1, self.has_weights_after), (2, self.has_linear_heads_after)):
            for node in reversed(before):
                is_one = len(shapes.get(node, ())) == size and node in self.input_dependent
                if is_one and heads_fit(node) and not self.crossing_nodes(node):
                    return node
        return None

    def has_linear_heads_after(self, cut: fx.Node) -> bool:
        """Whether all weights after it are of linear layers, two at least."""
        heads = [node for node in self.nodes[self.place[cut] + 1 :] if weight_count(self.module(node))]
        return len(heads) > 1 and all(isinstance(self.module(node), nn.Linear) for node in heads)

    def pooled_logits(self, shapes: dict[fx.Node, Shape]) -> fx.Node | None:
        """The map ``(classes, 1, 1)`` that only has to be flattened to become the logits, if there is one."""
        before = [node for node in self.logits.all_input_nodes if node in self.input_dependent]
        if not self.applies(_FLATTEN, self.logits) or len(before) != 1 or shapes.get(before[0], ())[1:] != (1, 1):
            return None
        return before[0]

    def embedding_nodes(self) -> list[fx.Node]:
        """What the classifier is given and, going back, the same before each dropout and identity."""
        nodes = [self.classifier().all_input_nodes[0]]
        while self.applies((*DROPOUT, nn.Identity), nodes[-1]):
            nodes.append(nodes[-1].all_input_nodes[0])
        return nodes

    def has_weights_after(self, cut: fx.Node) -> bool:
        later = self.nodes[self.place[cut] + 1 :]
        return any(node.op == "get_attr" or weight_count(self.module(node)) for node in later)

    def is_linear(self, node: fx.Node) -> bool:
        module = self.module(node)
        return self.applies(_LINEAR, node) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))

    def is_relu(self, node: fx.Node) -> bool:
        """Whether ``node`` is a ReLU and alone in using what stands before it."""
        return self.applies(_RELU, node) and len(node.all_input_nodes[0].users) == 1


Traces = dict[bool, Trace]  # in train mode and in eval mode


def weight_count(module: nn.Module | None) -> int:
    """The number of weights."""
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


def set_mode(root: nn.Module, training: bool) -> nn.Module:
    for module in root.modules():
        module.training = training  # not by train(), which a model may have overridden
    return root


def run_with_fixed_seed(function: Callable[[Tensor], Any], images: Tensor) -> Any:
    """What ``function`` makes of the images, always with the same random numbers; no other generator advances."""
    with torch.no_grad(), keep_generators(), torch.random.fork_rng(range(torch.cuda.device_count())):
        return function(images.clone())


def trace_modes(root: nn.Module, opened: frozenset[str]) -> Traces:
    return {training: Trace(root, opened, training) for training in (True, False)}


def refuse_what_varies(root: nn.Module, traces: Traces) -> None:
    """Trace again, with the places in the source, and compare.

    Raises:
        UntraceableForwardError: the graphs differ, by numbers fresh from the system or by the clock; with the line.
    """
    for training, trace in traces.items():
        again = Trace(root, trace.opened, training, with_lines=True)
        for one, other in zip_longest(trace.nodes, again.nodes):
            if describe_node(trace, one) != describe_node(again, other):
                where = (again.lines or {}).get(other or again.nodes[-1])
                raise UntraceableForwardError(
                    f"{type(root).__name__} computes something else each time in {mode_name(training)} mode ({where}), "
                    "which cutting would fix for ever: do it in a submodule of its own or write its stages by hand"
                )


def describe_node(trace: Trace, node: fx.Node | None) -> object:
    """What a node computes; of a tensor that the forward makes, its values."""
    if node is None:
        return None
    if node.op != "get_attr":

        def by_place(given: Any) -> Any:
            return trace.place.get(given, given) if isinstance(given, fx.Node) else given

        return node.op, node.target, str(fx.node.map_aggregate((node.args, node.kwargs), by_place))
    value: Any = trace.root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.tolist() if str(node.target).startswith(CONSTANT_PREFIX) and isinstance(value, Tensor) else node.target


def open_until(
    root: nn.Module, traces: Traces, find: Callable[[Trace], fx.Node], wanted: Callable[[Trace, fx.Node], bool]
) -> Traces:
    """Open the module called at ``find``, deeper and deeper, until a ``wanted`` node shows; if none does, leave all."""
    deeper = traces
    while not wanted(deeper[False], find(deeper[False])):
        path = deeper[False].openable_path(find(deeper[False]))
        if path is None:
            return traces
        try:
            deeper = trace_modes(root, deeper[False].opened | {path})
        except SpotkdError:
            return traces
    return deeper


class ShapeRecorder(fx.Interpreter):
    """Records the shape of every tensor of a graph, without the batch dimension."""

    def __init__(self, trace: Trace, images: Tensor) -> None:
        super().__init__(set_mode(trace.root, False), graph=trace.graph)
        self.shapes: dict[fx.Node, Shape] = {}
        try:
            run_with_fixed_seed(self.run, images)
        except Exception as error:  # the network itself ran: what was traced is not what it does
            raise SpotkdError(
                f"torch.fx does not trace {type(trace.root).__name__} rightly ({one_line(error)[:120]}): cut elsewhere "
                "or write a StagedModel by hand"
            ) from error

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changeable = tuple(list(given) if isinstance(given, list) else given for given in args)  # as the network has it
        return super().call_module(target, changeable, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape[1:])
        return value


def is_channels_last(shape: Shape) -> bool:
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]
