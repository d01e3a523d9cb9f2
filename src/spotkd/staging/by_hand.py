"""A network's stages as source code, for one whose forward cannot be traced: its statements, divided where one tensor
passes from one to the next."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Sequence

from torch import nn

from ..stages import StagedModel


def write_wrapper(model: nn.Module) -> str:
    """A Python file that runs the network in stages, to be named ``python:FILE.build``; empty where none is found.

    Each statement of the forward belongs to one stage and runs in every step as it is. The last stage is what the
    forward returns, a call of the classifier.
    """
    kind = type(model)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.forward))).body[0]
    except (OSError, TypeError, SyntaxError):
        return ""
    if not isinstance(tree, ast.FunctionDef) or len(tree.args.args) != 2:
        return ""
    if any(hasattr(StagedModel, name) for name, _ in model.named_children()):
        return ""  # a part that is named like one of our methods
    this, images = (argument.arg for argument in tree.args.args)
    *body, last = tree.body
    call = last.value if isinstance(last, ast.Return) else None
    heads = [f"{this}.{name}" for name, _ in model.named_children()]
    if not isinstance(call, ast.Call) or len(call.args) != 1 or call.keywords or ast.unparse(call.func) not in heads:
        return ""
    if not isinstance(call.args[0], ast.Name):  # what the classifier is given is a statement of its own
        body.append(ast.parse(f"{images} = {ast.unparse(call.args[0])}").body[0])
        last = ast.parse(f"return {ast.unparse(call.func)}({images})").body[0]
    composed = [name for name, child in model.named_children() if any(child.children())]
    groups: list[list[ast.stmt]] = [[]]
    given = [images]  # the variable that enters each group
    for k, statement in enumerate(body):
        groups[-1].append(statement)
        crossing = _names(body[: k + 1], ast.Store) | {images}
        crossing &= _names([*body[k + 1 :], last], ast.Load)
        ends = k >= len(body) - 2 or any(f"{this}.{name}" in ast.unparse(statement) for name in composed)
        if len(crossing) == 1 and ends:
            groups.append([])
            given.append(crossing.pop())
    if groups[-1] or len(groups) < 3:
        return ""
    groups[-1] = [last]
    names = [*(f"part{k}" for k in range(1, len(groups) - 1)), "embedding", "logits"]
    scope = vars(sys.modules[kind.__module__])
    used = sorted((_names([*body, last], ast.Load) & scope.keys()) | {kind.__name__})
    lines = [
        "# mine.py, a file of yours; its network is named python:mine.build",
        "from spotkd.stages import StagedModel",
        f"from {kind.__module__} import {', '.join(used)}",
        f"class Staged(StagedModel, {kind.__name__}):",
        f"    stage_names = {tuple(names)}",
        f"    def stages({this}):",
        f"        return {', '.join(f'{this}.{name}' for name in names)}",
    ]
    for name, group, variable, gives in zip(names, groups, given, [*given[1:], ""], strict=True):
        lines.append(f"    def {name}({this}, {variable}):")
        lines += [textwrap.indent(ast.unparse(statement), " " * 8) for statement in group]
        lines += [f"        return {gives}"] if gives else []
    return "\n".join([*lines, "def build(classes):", "    return Staged(classes)", ""])


def _names(statements: Sequence[ast.stmt], context: type[ast.expr_context]) -> set[str]:
    nodes = (node for statement in statements for node in ast.walk(statement))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
