"""A network cut into stages: each stage is a function, made from the graph, of the root and of one tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from ..errors import SpotkdError, one_line
from ..stages import Rectified, Shape, StagedModel
from .frozen import Reads, changed_read
from .tracing import (
    CONSTANT_PREFIX,
    DROPOUT,
    ShapeRecorder,
    Trace,
    Traces,
    is_channels_last,
    mode_name,
    open_until,
    refuse_what_varies,
    run_with_fixed_seed,
    set_mode,
    trace_modes,
)

PROBE_SIZE = 3  # images in the probing batch: odd
_TensorMethod = tuple[str, tuple[Any, ...]]  # a tensor method and its arguments
# What is done to a tensor that leaves a stage, and undone where the next begins.
_CHANNELS_FIRST: tuple[_TensorMethod, _TensorMethod] = ("permute", (0, 3, 1, 2)), ("permute", (0, 2, 3, 1))


class StageCode(NamedTuple):
    """One stage: as a function ``run(root, x)``, as source text, and whether a ReLU follows."""

    run: Callable[[nn.Module, Tensor], Tensor]
    source: str
    rectified: bool

    def bind(self, root: nn.Module) -> Callable[[Tensor], Tensor]:
        body = partial(self.run, root)
        return cast(Callable[[Tensor], Tensor], Rectified(body)) if self.rectified else body


Segments = dict[bool, tuple[StageCode, ...]]  # in train mode and in eval mode


class Plan(NamedTuple):
    """Where and how a network is cut; it is the same whenever the network is traced anew.

    Attributes:
        opened: the modules that are traced.
        names: the modules that end a stage.
        flat: those of them whose maps ``(C, 1, 1)`` leave flattened.
        forms: for each of them what is done to its output, and undone after it.
        copying: the stages that copy their input, in train mode and in eval mode.
    """

    opened: frozenset[str]
    names: Sequence[str]
    flat: frozenset[str]
    forms: Sequence[tuple[_TensorMethod, _TensorMethod] | None]
    copying: dict[bool, set[int]]

    def make_segments(self, traces: Traces) -> Segments:
        made = {}
        for training, trace in traces.items():
            ends = [trace.images, *trace.cut_nodes(self.names, self.flat), trace.logits]
            made[training] = tuple(
                make_stage_code(trace, start, stop, k in self.copying[training], entering, leaving)
                for k, ((start, stop), entering, leaving) in enumerate(
                    zip(pairwise(ends), [None, *self.forms], [*self.forms, None], strict=True)
                )
            )
        same = all(one.source == other.source for one, other in zip(made[True], made[False], strict=True))
        return {True: made[False], False: made[False]} if same else made


class TracedModel(StagedModel):
    """The stages of ``root``, whose parameters, buffers and submodules this module takes as its own.

    The dictionaries themselves are shared, so moving, loading, rebinding and copying either reach both. The code runs
    on ``root``, since a submodule may have the name of one of our methods (``features``, ``stages``). Where a number or
    text that the forward reads off an attribute has changed, the network is traced anew.
    """

    def __init__(self, root: nn.Module, names: Sequence[str], plan: Plan, traces: Traces) -> None:
        super().__init__()
        for part in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules", "training"):
            vars(self)[part] = vars(root)[part]
        self.stage_names = tuple(names)
        self._plan = plan
        self._segments = plan.make_segments(traces)
        self._reads = collect_reads(traces)
        vars(self)["_root"] = root  # not by assignment, which would register it as a submodule

    def __getattr__(self, name: str) -> Any:
        if name in vars(self).get("_reads", {}).get("", {}):
            return getattr(vars(self)["_root"], name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_root" in vars(self) and (name == "training" or name in vars(self)["_reads"].get("", {})):
            setattr(vars(self)["_root"], name, value)
        if name not in vars(self).get("_reads", {}).get("", {}):
            super().__setattr__(name, value)

    def get_submodule(self, target: str) -> nn.Module:
        root: nn.Module = vars(self)["_root"]
        return root.get_submodule(target) if target else self

    def train(self, mode: bool = True) -> TracedModel:
        """As the root's own ``train`` does it, which may keep a part, such as its BatchNorms, in eval mode."""
        root: nn.Module = vars(self)["_root"]
        self.training = mode  # which segments run; the root's method need not say so
        root.train(mode)
        return self

    def eval(self) -> TracedModel:
        """As the root's own ``eval`` does it."""
        root: nn.Module = vars(self)["_root"]
        self.training = False
        root.eval()
        return self

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        root = vars(self)["_root"]
        if changed_read(root, self._reads) is not None:
            traces = trace_modes(make_twin(root), self._plan.opened)
            self._segments, self._reads = self._plan.make_segments(traces), collect_reads(traces)
        return tuple(segment.bind(root) for segment in self._segments[self.training])


def cut_network(model: nn.Module, probe: nn.Module, names: list[str], images: Tensor) -> TracedModel:
    """The stages of ``model`` that end at ``names`` and at the embedding, worked out on its twin ``probe``."""
    parts = [name.split(".") for name in names if name in dict(probe.named_modules())]
    ancestors = frozenset(".".join(path[:depth]) for path in parts for depth in range(1, len(path)))
    traces = open_until(probe, trace_modes(probe, ancestors), Trace.classifier, Trace.is_linear)
    trace = traces[False]
    shapes = ShapeRecorder(trace, images).shapes
    flat = frozenset(name for name in names if trace.flattens(name, shapes))
    cuts = trace.cut_nodes(names, flat)
    if cuts and not trace.has_weights_after(cuts[-1]):
        raise SpotkdError(f"cut '{names[-1]}' leaves no classifier after it: let the last cut be before the classifier")
    classifier, names, shape, squeezed = find_classifier(trace, cuts, names, shapes)
    if len(shape) != 1 and not squeezed:
        raise SpotkdError(
            f"{type(model).__name__} does not end in an nn.Linear on a vector that could be found: name as last cut "
            "the module before the classifier, one that gives (B, D), or write a StagedModel by hand"
        )
    forms = [_CHANNELS_FIRST if is_channels_last(shapes.get(cut, ())) else None for cut in cuts]
    if squeezed:
        forms[-1] = ("flatten", (1,)), ("unflatten", (1, shape))
    stage_names = [*names, str(classifier.target) if classifier.op == "call_module" else classifier.name]
    for name in names:  # a ReLU that ends the last block before a cut is to be seen
        traces = open_until(probe, traces, partial(Trace.cut_node, name=name, flat=flat), Trace.is_relu)
    refuse_what_varies(probe, traces)
    plan = Plan(traces[False].opened, names, flat, forms, {True: set(), False: set()})
    staged = TracedModel(probe, stage_names, plan, traces)
    plan.copying.update({mode: find_overwriting_stages(staged, probe, images, mode) for mode in (False, True)})
    used = {str(node.target) for trace in traces.values() for node in trace.nodes if node.op == "get_attr"}
    constants = {name: getattr(probe, name) for name in used if name.startswith(CONSTANT_PREFIX)}
    if constants:  # as buffers of a copy, so that they follow the model to a device
        model = copy.copy(model)
        model._buffers = {**model._buffers, **constants}
        model._non_persistent_buffers_set = model._non_persistent_buffers_set | constants.keys()
    return TracedModel(model, stage_names, plan, traces)


def make_twin(model: nn.Module) -> nn.Module:
    """A copy with the same weights but its own buffers and modes.

    Raises:
        SpotkdError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    except RuntimeError as error:  # PyTorch's own advice is in its words, such as for the old weight_norm
        advice = "use torch.nn.utils.parametrizations.weight_norm" if "weight_norm" in str(error) else one_line(error)
        raise SpotkdError(f"{type(model).__name__} cannot be copied: {advice}") from error


def collect_reads(traces: Traces) -> Reads:
    """What the forward reads off attributes, in either mode."""
    reads: Reads = {}
    for trace in traces.values():
        for path, attributes in trace.reads.items():
            reads.setdefault(path, {}).update(attributes)
    return reads


def find_classifier(
    trace: Trace, cuts: list[fx.Node], names: list[str], shapes: dict[fx.Node, Shape]
) -> tuple[fx.Node, list[str], Shape, bool]:
    """The node of the classifier; the names and (in place) the cuts with the embedding, its shape, and whether it is a
    map ``(D, 1, 1)``, or are tokens ``(N, D)``, that must be made a vector.
    """
    classifier = trace.classifier()
    linear = trace.is_linear(classifier) and not (cuts and trace.place[cuts[-1]] >= trace.place[classifier])
    shared = None if linear else trace.shared_input(shapes)
    if not linear:  # then the last cut that the caller names is the embedding, or the vector that several heads share
        classifier = trace.logits
        if shared is not None and not (cuts and (cuts[-1] is shared or len(shapes.get(cuts[-1], ())) == 1)):
            cuts.append(shared)
            names = [*names, trace.label(shared)]
    elif not (cuts and cuts[-1] in trace.embedding_nodes()):
        cuts.append(next(node for node in trace.embedding_nodes() if not trace.applies(DROPOUT, node)))
        names = [*names, trace.label(cuts[-1])]
    shape = shapes.get(cuts[-1], ()) if cuts else ()
    pooled, is_map = trace.pooled_logits(shapes), len(shape) == 3 and shape[1:] != (1, 1)
    if linear and is_map and pooled is not None and cuts[-1] in trace.embedding_nodes():
        # A convolution before the last pooling classifies: what stands for the embedding is what the pooling gives.
        cuts[-1], classifier, shape = pooled, trace.logits, shapes[pooled]
        names = [*names[:-1], trace.label(pooled)]
    squeezed = linear and shape[1:] == (1, 1)  # the classifier is a 1x1 convolution
    squeezed = squeezed or (len(shape) == 2 and cuts[-1] is shared)
    return classifier, names, shape, squeezed


def make_stage_code(
    trace: Trace,
    start: fx.Node,
    stop: fx.Node,
    copying: bool,
    entering: tuple[_TensorMethod, _TensorMethod] | None,
    leaving: tuple[_TensorMethod, _TensorMethod] | None,
) -> StageCode:
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
        if (node in trace.input_dependent or not node.users) and not (rectified and node is stop):
            load(node)
    output = load(stop.all_input_nodes[0] if rectified else stop)
    if leaving is not None:
        method, arguments = leaving[0]
        output = graph.call_method(method, (output, *arguments))
    graph.output(output)
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(code.src, scope)
    return StageCode(scope["forward"], code.src, rectified)


def find_overwriting_stages(staged: StagedModel, probe: nn.Module, images: Tensor, training: bool) -> set[int]:
    """The stages that overwrite what they are given; an error if together they do not give what the model gives."""
    expected = run_with_fixed_seed(set_mode(probe, training), images)
    again = run_with_fixed_seed(probe, images)  # what differs though the random numbers are the same cannot be compared
    staged.training = training
    overwriting: set[int] = set()

    def watch(x: Tensor) -> Tensor:
        outputs = [x]
        for k, run in enumerate(staged.stages()):
            versions = [output._version for output in outputs]
            outputs.append(run(outputs[-1]))
            if not isinstance(outputs[-1], Tensor) or len(outputs[-1]) != PROBE_SIZE:
                raise SpotkdError(f"cut '{staged.stage_names[k]}' gives no tensor with the batch first: cut elsewhere")
            if versions != [output._version for output in outputs[:-1]]:
                overwriting.add(k)
        return outputs[-1]

    given = run_with_fixed_seed(watch, images)
    close = partial(torch.allclose, rtol=1e-4, atol=1e-4 * float(expected.abs().max()), equal_nan=True)
    if close(expected, again) and not (given.shape == expected.shape and close(given, expected)):
        raise SpotkdError(
            f"{type(probe).__name__} in stages differs from the whole in {mode_name(training)} mode: its forward "
            "decides by something that tracing fixes; cut elsewhere or write a StagedModel by hand"
        )
    return overwriting
