"""Holds the source files of a vLLM release against the contract, without importing them.

    python -m hyperplug_vllm.sources FOLDER...

where each folder holds an unpacked release, with `vllm/` in it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from hyperplug_vllm.contract import SYMBOLS, Symbol, Use, way_into

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def findings(folder: Path) -> list[str]:
    """Returns what the release in `folder` lacks, one line each; empty if all is there."""
    release = release_in(folder)
    if release is None:
        return [f"{folder}: no vLLM with a readable version number is there"]
    way = way_into(release)
    found = []
    for symbol in SYMBOLS:
        if way in symbol.ways:
            lack = lacking(symbol, folder)
            if lack:
                found.append(f"{symbol}: {lack} ({symbol.why})")
    return found


def lacking(symbol: Symbol, folder: Path) -> str | None:
    """Returns what keeps hyperplug from using a symbol of a release, None if nothing does."""
    trees = [tree for module in symbol.modules if (tree := _tree(folder, module)) is not None]
    if not trees:
        return f"no module {' or '.join(symbol.modules)}"
    lacks = [_CHECKS[symbol.use](symbol, tree) for tree in trees]
    return None if None in lacks else lacks[0]


def release_in(folder: Path) -> tuple[int, int] | None:
    """Returns the release whose `vllm/` is in `folder`, such as (0, 32)."""
    try:
        text = (folder / "vllm" / "_version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"""^(?:__version__ *= *)?version *= *["'](\d+)\.(\d+)""", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def _tree(folder: Path, module: str) -> ast.Module | None:
    path = folder.joinpath(*module.split("."))
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if file.is_file():
            return _parsed(file)
    return None


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _run(symbol: Symbol, tree: ast.Module) -> str | None:
    started = any(
        isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node.test)
        for node in tree.body
    )
    return None if started else "it cannot be started as a program"


def _call(symbol: Symbol, tree: ast.Module) -> str | None:
    target = _find(symbol.name, tree)
    if target is None:
        return "it is not there"
    names, required = _parameters(target, method="." in symbol.name and not _is_static(target))
    takes = len(symbol.takes)
    if tuple(names[:takes]) != symbol.takes or not required <= set(names[:takes]):
        return f"it takes {_said(names)}, not {_said(symbol.takes)}"
    return None


def _await(symbol: Symbol, tree: ast.Module) -> str | None:
    lack = _call(symbol, tree)
    if lack is None and not isinstance(_find(symbol.name, tree), ast.AsyncFunctionDef):
        return "it is no coroutine"
    return lack


def _implement(symbol: Symbol, tree: ast.Module) -> str | None:
    target = _find(symbol.name, tree)
    if not isinstance(target, _Function):
        return "it is not there"
    names, _ = _arguments(target, method=True)
    if tuple(names) != symbol.takes or target.args.kwonlyargs:
        return f"vLLM passes {_said(names)}, not {_said(symbol.takes)}"
    return None


def _read(symbol: Symbol, tree: ast.Module) -> str | None:
    return None if _annotation(symbol, tree) is not None else "objects do not have it"


def _mapping(symbol: Symbol, tree: ast.Module) -> str | None:
    annotation = _annotation(symbol, tree)
    if annotation is None:
        return "objects do not have it"
    return None if annotation.startswith("dict") else f"it is {annotation or 'unknown'}, not a dict"


def _set(symbol: Symbol, tree: ast.Module) -> str | None:
    places = (
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
    )
    return None if symbol.name in places else "nothing sets it"


def _values(symbol: Symbol, tree: ast.Module) -> str | None:
    for name, value in _assignments(tree.body):
        if name == symbol.name and isinstance(value, ast.Subscript):
            values = ast.literal_eval(value.slice)
            return None if values == symbol.takes else f"its values are {values}"
    return "it is not there"


def _text(symbol: Symbol, tree: ast.Module) -> str | None:
    said = any(isinstance(n, ast.Constant) and n.value == symbol.name for n in ast.walk(tree))
    return None if said else "it is not there"


def _used(symbol: Symbol, tree: ast.Module) -> str | None:
    used = any(
        isinstance(node, ast.Attribute | ast.Name)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node) == symbol.name
        for node in ast.walk(tree)
    )
    return None if used else "vLLM does not use it"


def _flag(symbol: Symbol, tree: ast.Module) -> str | None:
    """Flags are added by name, or made from the fields of a class of arguments."""
    if _text(symbol, tree) is None:
        return None
    field = symbol.name.removeprefix("--").replace("-", "_")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and field in _fields(node):
            return None
    return "there is no such flag"


def _order(symbol: Symbol, tree: ast.Module) -> str | None:
    function = _find(symbol.name, tree)
    if not isinstance(function, _Function):
        return "it is not there"
    earlier, later = (
        [
            (node.lineno, node.col_offset)
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and node.id in _names(names)
        ]
        for names in symbol.takes
    )
    if not earlier or not later:
        missing = symbol.takes[0] if not earlier else symbol.takes[1]
        return f"nothing in it is called {' or '.join(_names(missing))}"
    return None if max(earlier) < min(later) else "what it does is in another order"


_CHECKS: dict[Use, Callable[[Symbol, ast.Module], str | None]] = {
    Use.RUN: _run,
    Use.CALL: _call,
    Use.AWAIT: _await,
    Use.IMPLEMENT: _implement,
    Use.READ: _read,
    Use.MAPPING: _mapping,
    Use.SET: _set,
    Use.VALUES: _values,
    Use.TEXT: _text,
    Use.USED: _used,
    Use.FLAG: _flag,
    Use.ORDER: _order,
}


def _find(name: str, tree: ast.Module) -> _Function | ast.ClassDef | None:
    """Returns the function or class that a path of attributes leads to."""
    body: Sequence[ast.stmt] = tree.body
    found: _Function | ast.ClassDef | None = None
    for part in name.split("."):
        found = next(
            (n for n in body if isinstance(n, _Function | ast.ClassDef) and n.name == part), None
        )
        if found is None:
            return None
        body = found.body
    return found


def _is_static(target: _Function | ast.ClassDef) -> bool:
    return "staticmethod" in map(ast.unparse, target.decorator_list)


def _parameters(target: _Function | ast.ClassDef, *, method: bool) -> tuple[list[str], set[str]]:
    """Returns the positional parameters, and all that have no default."""
    if isinstance(target, _Function):
        return _arguments(target, method=method)
    for node in target.body:
        if isinstance(node, _Function) and node.name == "__init__":
            return _arguments(node, method=True)
    fields = _fields(target)
    return list(fields), {name for name, default in fields.items() if default is None}


def _arguments(function: _Function, *, method: bool) -> tuple[list[str], set[str]]:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    required = set(names[int(method) : len(names) - len(given.defaults)])
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        if default is None:
            required.add(argument.arg)
    return names[int(method) :], required


def _fields(target: ast.ClassDef) -> dict[str, ast.expr | None]:
    """Returns the annotated fields of a class, with their defaults."""
    return {
        node.target.id: node.value
        for node in target.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _annotation(symbol: Symbol, tree: ast.Module) -> str | None:
    """Returns the annotation of a class's attribute, "" without one; None if there is none."""
    owner, _, attribute = symbol.name.rpartition(".")
    target = _find(owner, tree)
    if not isinstance(target, ast.ClassDef):
        return None
    places = (attribute, f"self.{attribute}")
    found = None
    for node in ast.walk(target):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) in places:
            return ast.unparse(node.annotation)
        if isinstance(node, ast.Assign) and f"self.{attribute}" in map(ast.unparse, node.targets):
            found = ""
    return found


def _assignments(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _said(names: Sequence[object]) -> str:
    return f"({', '.join(map(str, names))})"


def main(folders: Sequence[str]) -> int:
    """Prints what each release lacks; returns 1 if any lacks something."""
    status = 0
    for folder in map(Path, folders):
        lacks = findings(folder)
        release = release_in(folder)
        name = f"{folder.name} ({way_into(release).value})" if release else folder.name
        print(f"{name}: {'all there' if not lacks else f'{len(lacks)} lacking'}")
        print("".join(f"  {lack}\n" for lack in lacks), end="")
        status = status or int(bool(lacks))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
