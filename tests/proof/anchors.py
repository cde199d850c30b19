"""Where a deliberate defect is put: a definition, found by its name, and words inside it.

Names of files and numbers of lines do not count. Nor do line breaks, indentation, comments, and
the comma that a formatter puts before a closing bracket. So code may move and be formatted anew.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

FOLDERS = ("agentrun", "tools", "migrations")

_WORD = re.compile(r"\w+|[^\w\s]")
_COMMA_BEFORE_BRACKET = re.compile(r",(?=\s*[)\]}])")
_QUERY = re.compile(r"^(-- name: \w+)$(?:(?!^-- name: ).)*", re.DOTALL | re.MULTILINE)
_STATEMENT = re.compile(
    r"^(?:CREATE|ALTER|COMMENT|GRANT|REVOKE)\b(?:(\$\w*\$).*?\1|.)*?;[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_KIND_AND_NAME = re.compile(r"\b[A-Z]+ [a-z_][\w.]*")


class AnchorError(LookupError):
    """A definition, or the words in it, are not there, or are there more than once."""


@dataclass(frozen=True)
class Definition:
    """A part of a file, from ``start`` to ``end`` in its text."""

    name: str
    file: str
    start: int
    end: int


class Definitions:
    """What the sources of a tree define, by name.

    The name of a class, function or constant begins with what it is in: ``Worker.stop``. A call
    at the top of a module has the name of what is called: ``logger.addFilter``. SQL is named by
    its first line: ``-- name: append``, ``FUNCTION agentrun.send``. Before a name that several
    modules define stands the module: ``worker.Worker.stop``, and before that what it is in:
    ``runs.worker.Worker.stop``. A file has its path as its name.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._texts: dict[str, str] = {}
        self._known: dict[str, list[Definition]] = {}
        for folder in FOLDERS:
            for path in sorted((root / folder).rglob("*")):
                if path.suffix in (".py", ".sql"):
                    self._add(path)

    def find(self, name: str) -> list[Definition]:
        """What has this name, in one file: several parts if it is overloaded.

        Raises:
            AnchorError: nothing has this name, or definitions in several files have it.
        """
        found = self._known.get(name, [])
        if not self._is_unique(name):
            places = ", ".join(dict.fromkeys(f"{self._shortest(d)} ({d.file})" for d in found))
            raise AnchorError(f"{name} is the name of several definitions: write one of {places}")
        if not found and (self._root / name).is_file():
            self._texts[name] = (self._root / name).read_text("utf-8")
            return [Definition(name, name, 0, len(self._texts[name]))]
        if not found:
            names = {definition.name for same in self._known.values() for definition in same}
            similar = " or ".join(get_close_matches(name, names)) or "nothing similar"
            folders = "/, ".join(FOLDERS)
            raise AnchorError(f"{name} is not defined in {folders}/, which have {similar}")
        return found

    def change(self, name: str, old: str, new: str) -> tuple[str, str]:
        """Put ``new`` in the place of ``old`` in what has this name: the file, and its new text.

        Raises:
            AnchorError: the name is not that of one definition, or ``old`` is not in it once.
        """
        definitions = self.find(name)
        file = definitions[0].file
        text = self._texts[file]
        comment = "--.*" if file.endswith(".sql") else "#.*"
        pattern = _pattern(old, comment)
        found = [
            match
            for definition in definitions
            for match in pattern.finditer(text, definition.start, definition.end)
        ]
        if len(found) != 1:
            line = text.count("\n", 0, definitions[0].start) + 1
            place = f"{name} ({file}, line {line})"
            raise AnchorError(f"{place} has this {len(found)} times and not once: {old}")
        return file, _replace(text, found[0], textwrap.dedent(new).strip(), comment)

    def _add(self, path: Path) -> None:
        file, text = path.relative_to(self._root).as_posix(), path.read_text("utf-8")
        self._texts[file] = text
        for name, start, end in _in_python(text) if path.suffix == ".py" else _in_sql(text):
            definition = Definition(name, file, start, end)
            for longer in _names_of(definition):
                self._known.setdefault(longer, []).append(definition)

    def _is_unique(self, name: str) -> bool:
        return len({definition.file for definition in self._known.get(name, [])}) <= 1

    def _shortest(self, definition: Definition) -> str:
        return next(filter(self._is_unique, _names_of(definition)), definition.file)


def _names_of(definition: Definition) -> Iterator[str]:
    """The name itself, and the longer ones: with its module before it, with its package."""
    name = definition.name
    yield name
    for part in reversed(Path(definition.file).with_suffix("").parts):
        if part != "__init__":
            name = f"{part}.{name}"
            yield name


def _in_python(text: str) -> Iterator[tuple[str, int, int]]:
    """Each name that Python source defines, and where: from its first decorator to its end."""
    lines = [0]
    for line in text.split("\n"):
        lines.append(lines[-1] + len(line) + 1)

    def visit(node: ast.AST, outer: str, local: bool) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                continue
            if isinstance(child, ast.stmt):
                decorators = getattr(child, "decorator_list", [])
                first = min(part.lineno for part in [child, *decorators])
                for name in _names(child, local):
                    yield outer + name, lines[first - 1], lines[child.end_lineno or first]
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                within = local or not isinstance(child, ast.ClassDef)
                yield from visit(child, f"{outer}{child.name}.", within)
            else:
                yield from visit(child, outer, local)

    return visit(ast.parse(text), "", False)


def _names(statement: ast.stmt, local: bool) -> list[str]:
    """What a statement defines; the variables and calls of a function do not count."""
    match statement:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return [statement.name]
        case ast.Assign() if not local:
            targets = [part for one in statement.targets for part in getattr(one, "elts", [one])]
            return [ast.unparse(target) for target in targets]
        case ast.AnnAssign() if not local:
            return [ast.unparse(statement.target)]
        case ast.Expr(ast.Call() as call) if not local:
            return [ast.unparse(call.func)]
    return []


def _in_sql(text: str) -> Iterator[tuple[str, int, int]]:
    """Each query that has a name, and each statement about an object of the schema."""
    for query in _QUERY.finditer(text):
        yield query[1], *query.span()
    for statement in _STATEMENT.finditer(text):
        if named := _KIND_AND_NAME.search(statement[0]):
            yield named[0], *statement.span()


def _pattern(old: str, comment: str) -> re.Pattern[str]:
    """The words and signs of ``old``, whatever space and comments are between them."""
    gap = rf"(?:\s|{comment}\n)*"
    parts = [
        rf"\b{word}\b" if word[0].isalnum() or word[0] == "_"
        else (rf"(?:,{gap})?" if word in ")]}" else "") + re.escape(word)
        for word in _WORD.findall(_COMMA_BEFORE_BRACKET.sub("", old))
    ]  # fmt: skip
    return re.compile(gap.join(parts))


def _replace(text: str, found: re.Match[str], new: str, comment: str) -> str:
    """Lines that become empty go; further lines of ``new`` are indented as the first one is."""
    line = text.rfind("\n", 0, found.start()) + 1
    before = text[line : found.start()]
    rest = re.compile(rf"[ \t]*(?:{comment})?(?:\n|$)").match(text, found.end())
    if not new and not before.strip() and rest:
        return text[:line] + text[rest.end() :]
    indent = before[: len(before) - len(before.lstrip())]
    return text[: found.start()] + textwrap.indent(new, indent).lstrip() + text[found.end() :]
