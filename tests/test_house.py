"""The house rules that a machine can check: who imports whom, sizes, what is never written."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slow import slow_tests

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "agentrun"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py")])

# Which rooms a room may import. "agentrun" is the public face, `import agentrun`.
MAY_ENTER = {
    "core": {"core"},
    "store": {"core", "store", "bundled"},
    "models": {"core", "models"},
    "view": {"core", "view"},
    "gateway": {"core", "store", "models", "gateway"},
    "values": {"core", "values"},
    "steps": {"core", "store", "models", "values", "steps"},
    "lifecycle": {"core", "store", "models", "values", "steps", "lifecycle"},
    "api": {"core", "store", "models", "values", "steps", "lifecycle", "api"},
    "web": {"core", "store", "steps", "api", "view", "web"},
    "integrations": {"agentrun", "core", "integrations"},
    "testing": {"agentrun", "core", "store", "testing"},  # the doubles start without agentrun
    "bundled": {"bundled", "core"},
    "demo": {"agentrun", "demo", "testing", "bundled", "view"},
    "tools": {"agentrun"},
}
# Top-level modules that join the rooms.
FACES = {"__init__.py", "__main__.py"}
# The only rooms that know these packages.
ONLY_IN = {
    "psycopg": {"store", "steps", "lifecycle", "demo", "tools", "cli"},
    "obstore": {"store"},
    "openai": {"demo"},
    "httpx": {"tools", "demo", "gateway"},
    "httpx2": set(),
    "rich": {"view", "cli", "demo"},
    "typer": {"cli"},
    "tiktoken": {"models"},
    "starlette": {"gateway", "integrations", "web"},
    "uvicorn": {"gateway", "web"},
    "jinja2": {"web"},
    "markupsafe": {"web"},
    "pydantic": {"values", "steps", "api", "integrations", "demo", "tools", "cli"},
}
IMPURE = {"asyncio", "threading", "socket", "os", "time", "random", "subprocess"}
PAUSES = {"asyncio", "time"}  # `core.flow.pause` names the two sleeps that its drivers call
FUNCTION_LINES, FILE_LINES, COLUMNS = 70, 500, 100


def room(path: Path) -> str:
    if path.is_relative_to(ROOT / "tools"):
        return "tools"
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else "face"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top (not lazily, not for types only)."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, top
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "agentrun":
                for name in node.names:
                    inner = PACKAGE / name.name
                    known = inner.is_dir() or inner.with_suffix(".py").exists()
                    yield (f"agentrun.{name.name}" if known else "agentrun"), top
            else:
                yield node.module, top


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    here = room(path)
    if here in ("face", "cli", "integrations"):
        return
    for module, _ in imports(path):
        if module.split(".")[0] == "agentrun":
            entered = module.split(".")[1] if "." in module else "agentrun"
            assert entered in MAY_ENTER[here], f"{here} must not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_are_known_only_where_they_belong(path: Path) -> None:
    for module, top in imports(path):
        package = module.split(".")[0]
        if package in ONLY_IN and top:
            assert room(path) in ONLY_IN[package], f"{package} has no business here"
        if room(path) == "core" and top:
            allowed = PAUSES if path.name == "flow.py" else set()
            assert package not in IMPURE - allowed, f"core is pure: no {package}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = text.splitlines()
    assert len(lines) <= FILE_LINES
    assert all(len(line) <= COLUMNS for line in lines)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_never_written(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "every module says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            loads = path.name == "agent_files.py"  # imports the agent file that its user names
            assert node.func.id not in ("eval", "exec") or loads, "no row's text is executed"
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not (silent and node.type.id in ("Exception", "BaseException"))
    assert not {m.split(".")[0] for m, _ in imports(path)} & {"pickle", "marshal", "shelve"}


def test_importing_agentrun_loads_no_heavy_package() -> None:
    code = (
        "import sys, agentrun; "
        "print({'openai', 'tiktoken', 'rich', 'typer', 'httpx', 'httpx2', 'genai_prices'} "
        "& set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_public_name_is_documented() -> None:
    import inspect

    import agentrun

    undocumented = [
        name
        for name in agentrun.__all__
        if name != "__version__" and not inspect.getdoc(getattr(agentrun, name))
    ]
    assert undocumented == []


def test_no_statement_stands_outside_the_queries_file() -> None:
    """SQL lives in `queries.sql` and in migrations; what manages servers and schema is named."""
    apart = {"store/migrate.py", "store/embedded.py", "store/roles.py"}
    verbs = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
    for path in sorted((PACKAGE / "store").glob("*.py")):
        if str(path.relative_to(PACKAGE)) in apart:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.lstrip().startswith(verbs), f"{path.name}: {node.value[:60]}"


def test_the_public_database_offers_its_dsn_and_its_end() -> None:
    """What the package itself needs of a database is in `OpenDatabase`, below it."""
    import agentrun

    public = vars(agentrun.Database).keys() | agentrun.Database.__annotations__.keys()
    assert {name for name in public if not name.startswith("_")} == {"close", "dsn"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_store_sends_statements_by_name(path: Path) -> None:
    """Other rooms call its functions, which are named for what they do and return typed values."""
    if room(path) == "store":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            partial = isinstance(node.func, ast.Name) and node.func.id == "partial"
            for called in (node.func, *(node.args if partial else ())):
                by_name = isinstance(called, ast.Attribute) and called.attr in ("query", "rows")
                assert not by_name, f"line {node.lineno}: {ast.unparse(called)}"
        elif isinstance(node, ast.ImportFrom) and node.module == "agentrun.store.sql":
            assert "QUERIES" not in {name.name for name in node.names}


def test_what_is_decided_is_decided_by_the_databases_clock() -> None:
    """Machines disagree about the time; `Heart.now` is what a worker may ask."""
    apart = {
        "store/liveness.py",  # that clock; the wall clock beside it sees a machine that slept
        "store/audit.py",  # measures how far the two are apart
        "api/deterministic.py",  # `agentrun.now()`, which is recorded
    }
    rooms = ("store", "values", "steps", "lifecycle", "api")
    for path in sorted(path for room in rooms for path in (PACKAGE / room).glob("*.py")):
        if str(path.relative_to(PACKAGE)) not in apart:
            text = path.read_text("utf-8")
            assert "datetime.now(" not in text, path.name
            assert "time.time(" not in text, path.name


def test_each_slow_test_exists() -> None:
    """A test that is renamed has to keep its place in the list."""
    for name in slow_tests():
        file, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text("utf-8"), name


# -- names and cycles ------------------------------------------------------------------------------

# Participles and pronouns that say nothing by themselves as the name of a function or a field.
SAY_NOTHING = frozenset(
    [
        "asked",
        "begun",
        "came",
        "given",
        "held",
        "kept",
        "known",
        "left",
        "nobody",
        "noted",
        "over",
        "said",
        "sent",
        "settle",
        "settled",
        "somebody",
        "taken",
        "tell",
        "told",
        "wanted",
    ]
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imported_by(path: Path) -> set[str]:
    """The modules of ours that a file imports when it runs: at its top, or inside a function."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return (found & MODULES.keys()) - {module_of(path)}


def test_no_import_goes_in_a_circle() -> None:
    """Also none that an import inside a function hides."""
    left = {name: imported_by(path) for name, path in MODULES.items()}
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        for name in free:
            del left[name]
    assert left == {}, "these modules import each other, or modules that do"


def test_class_names_are_unique_and_names_say_something() -> None:
    classes: dict[str, str] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert classes.setdefault(node.name, str(path)) == str(path), node.name
            for name in names_given_by(node):
                assert name.strip("_") not in SAY_NOTHING, f"{path}: {name}"


def names_given_by(node: ast.AST) -> Iterator[str]:
    """The name of a function, or the fields of a class."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.ClassDef):
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                yield part.attr
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                yield line.target.id
