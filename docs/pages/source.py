"""Functions and classes as their source has them: signature, paper, file."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import oodattack

WIDTH = 100


def signature(thing: Callable[..., Any], name: str) -> str:
    """How to call it, with annotations as they were written; a parameter a line where it gets long."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    if isinstance(tree, ast.ClassDef):
        own = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        held = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
        if "Protocol" in map(ast.unparse, tree.bases):
            tree, name = own["__call__"], name.rpartition(".")[2].lower()  # what it is called like, not how it is made
        elif "__init__" in own:
            tree = own["__init__"]
        elif held:
            return wrapped(name, fields(held, by_keyword=hasattr(thing, "model_fields")), "")  # pydantic's
        else:
            parent = thing.__mro__[1]  # type: ignore[attr-defined]
            return signature(parent, name) if parent.__module__.startswith("oodattack.") else name
    assert isinstance(tree, ast.FunctionDef)
    returns = f" -> {written(tree.returns)}" if tree.returns is not None and tree.name != "__init__" else ""
    return wrapped(name, parameters(tree.args, inspect.signature(thing)), returns)


def written(annotation: ast.expr) -> str:
    """An annotation as it was written, without the quotes that put off its evaluation."""
    return str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


def fields(held: list[ast.AnnAssign], *, by_keyword: bool) -> list[str]:
    """The arguments of a class that is its fields: a dataclass, a NamedTuple, or a model of pydantic's."""
    plain: list[str] = []
    named: list[str] = []
    for node in held:
        value, said = node.value, {}
        if isinstance(value, ast.Call) and ast.unparse(value.func) in ("Field", "field"):
            said = {word.arg: word.value for word in value.keywords}
            value = said.get("default")
        if "init" in said and ast.unparse(said["init"]) == "False":
            continue
        line = f"{ast.unparse(node.target)}: {written(node.annotation)}"
        line = line if value is None else f"{line} = {ast.unparse(value)}"
        (named if by_keyword or "kw_only" in said else plain).append(line)
    return [*plain, *(["*"] if named else []), *named]


def parameters(given: ast.arguments, known: inspect.Signature) -> list[str]:
    """Parameters one by one, markers included; a default that is a constant of the module by its value."""
    ordinary = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(ordinary) - len(given.defaults)), *given.defaults]
    parts = [with_default(a, d, known) for a, d in zip(ordinary, defaults, strict=True)]
    if given.posonlyargs:
        parts.insert(len(given.posonlyargs), "/")
    if given.vararg:
        parts.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [with_default(a, d, known) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        parts.append(f"**{ast.unparse(given.kwarg)}")
    return [part for part in parts if part != "self"]


def with_default(argument: ast.arg, default: ast.expr | None, known: inspect.Signature) -> str:
    """A parameter as it was written."""
    line = argument.arg if argument.annotation is None else f"{argument.arg}: {written(argument.annotation)}"
    if default is None:
        return line
    value = known.parameters[argument.arg].default if argument.arg in known.parameters else None
    plain = isinstance(default, ast.Name) and isinstance(value, int | float | str | tuple)
    return f"{line} = {value!r}" if plain else f"{line} = {ast.unparse(default)}"


def wrapped(name: str, parts: list[str], returns: str) -> str:
    """On a line, or a part a line."""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def made_by(build: Callable[..., Any], room: ModuleType) -> list[Any]:
    """What a row's build function calls, of what the room offers, in the order in which it is called."""
    called = [getattr(room, name) for name in build.__code__.co_names if name in vars(room)]
    found = []
    for thing in called:
        found.append(thing)
        if not inspect.isclass(thing) and inspect.isclass(made := get_type_hints(thing).get("return")):
            found.append(made)
    return [thing for thing in dict.fromkeys(found) if thing.__module__.startswith("oodattack.")]


def formula_of(thing: Any) -> Any | None:
    """The function that a file is named after, where it is another one: the score itself."""
    module = inspect.getmodule(thing)
    found = getattr(module, thing.__module__.rpartition(".")[2], None)
    return found if found is not thing and inspect.isfunction(found) else None


def paper_of(thing: Any) -> str:
    """Authors, title and number: the beginning of its module's docstring, up to the first paper."""
    first, *more = (inspect.getdoc(inspect.getmodule(thing)) or "").split("\n\n")
    kept = [first, *more[:1]] if "arXiv:" not in first and more and "arXiv:" in more[0] else [first]
    return " ".join(" ".join(kept).split())


def file_of(thing: Any) -> str:
    """Its file, below the repository's root."""
    module = inspect.getmodule(thing)
    assert module is not None
    return f"oodattack/{Path(str(module.__file__)).relative_to(Path(oodattack.__file__).parent).as_posix()}"
