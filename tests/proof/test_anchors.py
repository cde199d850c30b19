"""A defect is found where its definition is, however the code around it moves and looks."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from anchors import AnchorError, Definitions

Tree = Callable[[dict[str, str]], Definitions]

WORKER = '''
class Worker:
    """Executes runs."""

    def stop(self, error, *, hard=False):
        if error is None and not hard:
            return  # nothing is wrong
        self.close(error, "a, b")
        self.close(error)
'''


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write files and index them."""

    def write(files: dict[str, str]) -> Definitions:
        for file, text in files.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text, "utf-8")
        return Definitions(tmp_path)

    return write


def changed(definitions: Definitions, name: str, old: str, new: str) -> str:
    return definitions.change(name, old, new)[1]


def test_a_definition_that_moved_is_found(tree: Tree) -> None:
    here = tree({"agentrun/lifecycle/worker.py": WORKER})
    change = ("Worker.stop", "if error is None and not hard:", "if True:")
    before = here.change(*change)
    assert before == ("agentrun/lifecycle/worker.py", WORKER.replace(change[1], change[2]))
    there = tree({"agentrun/lifecycle/worker.py": "", "agentrun/api/new_name.py": WORKER})
    assert there.change(*change) == ("agentrun/api/new_name.py", before[1])


FORMATTED_ANEW = '''
class Worker:
    """Executes runs."""

    def stop(
        self,
        error,
        *,
        hard=False,  # not by a signal
    ):
        if (
            error is None
            # and nobody insists
            and not hard
        ):
            return
        self.close(
            error,
            "a, b",
        )
        self.close(error)
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("error is None and not hard", "True"),
        ('self.close(error, "a, b")', 'self.close(None, "a, b")'),
        ("(self, error, *, hard=False)", "(self, error, *, hard=True)"),
        ("self.close(\n    error,\n)", "self.close(\n    None,\n)"),
        ("return\nself.close(", "return\n\nself.open("),
    ],
)
def test_a_definition_that_is_formatted_anew_is_found(tree: Tree, old: str, new: str) -> None:
    one = changed(tree({"tools/worker.py": WORKER}), "Worker.stop", old, new)
    other = changed(tree({"tools/worker.py": FORMATTED_ANEW}), "Worker.stop", old, new)
    assert ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    assert ast.dump(ast.parse(one)) != ast.dump(ast.parse(WORKER))


PARTS = '''
import logging

LIMITS = {"calls": 3}
FIRST, SECOND = 1, 2
logger = logging.getLogger("shop")
logger.addFilter(clean)  # masks


@frozen(slots=True)
class Shop:
    price: int = 7

    @overload
    def sell(self, what: int) -> int: ...
    @overload
    def sell(self, what: str) -> str: ...
    def sell(self, what):
        """Sell it.

        timeout: seconds to wait
        """
        def deliver():
            LIMITS = {}
            try:
                return f"{what}: 3"
            finally:
                pass
        return deliver()
'''


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("LIMITS", "3", "4", 'LIMITS = {"calls": 4}'),
        ("SECOND", "2", "3", "FIRST, SECOND = 1, 3"),
        ("logger.addFilter", "clean", "None", "logger.addFilter(None)  # masks"),
        ("Shop", "@frozen(slots=True)", "@frozen", "@frozen"),
        ("Shop.price", "7", "8", "    price: int = 8"),
        ("Shop.sell", "what: str", "what: bytes", "    def sell(self, what: bytes) -> str: ..."),
        ("Shop.sell", "timeout: seconds", "timeout: time", "        timeout: time to wait"),
        ("Shop.sell.deliver", "3", "4", '                return f"{what}: 4"'),
        ("shop.Shop.sell.deliver", "3", "4", '                return f"{what}: 4"'),
        ("tools.shop.LIMITS", "3", "4", 'LIMITS = {"calls": 4}'),
    ],
)  # fmt: skip
def test_each_kind_of_definition_has_a_name(
    tree: Tree, name: str, old: str, new: str, line: str
) -> None:
    text = changed(tree({"tools/shop.py": PARTS}), name, old, new)
    pairs = zip(PARTS.split("\n"), text.split("\n"), strict=True)
    assert [after for before, after in pairs if after != before] == [line]


def test_a_variable_of_a_function_is_no_definition(tree: Tree) -> None:
    here = tree({"tools/shop.py": PARTS})
    assert refusal(here, "Shop.sell.deliver.LIMITS", "{}").startswith("Shop.sell.deliver.LIMITS is")


SCHEMA = """
CREATE TABLE agentrun.mail (
    kind text NOT NULL CHECK (kind IN ('signal', 'cancel')));  -- letters
COMMENT ON TABLE agentrun.mail IS 'Letters; to runs.';
CREATE FUNCTION agentrun.send(kind text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO agentrun.mail VALUES (kind);
    PERFORM stamp('a');
END $$;
REVOKE EXECUTE ON FUNCTION agentrun.send FROM PUBLIC;
CREATE UNIQUE INDEX mail_kinds ON agentrun.mail (kind);
"""
QUERIES = """
-- name: letters
SELECT kind FROM agentrun.mail  -- all of them
WHERE kind = 'signal';
-- name: first_letter
SELECT kind FROM agentrun.mail LIMIT 1
"""


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("TABLE agentrun.mail", "'cancel'", "'end'"),
        ("FUNCTION agentrun.send", "stamp('a');", "stamp('b');"),
        ("FUNCTION agentrun.send", "FROM PUBLIC", "FROM nobody"),
        ("INDEX mail_kinds", "UNIQUE INDEX", "INDEX"),
        ("-- name: letters", "agentrun.mail", "agentrun.letters"),
        ("-- name: first_letter", "agentrun.mail", "agentrun.letters"),
        ("requirements.lock", "SQLAlchemy==2", "SQLAlchemy==3"),
    ],
)
def test_sql_and_files_have_names(tree: Tree, name: str, old: str, new: str) -> None:
    here = tree(
        {
            "migrations/0001_schema.sql": SCHEMA,
            "agentrun/queries.sql": QUERIES,
            "requirements.lock": "pytest==8\nSQLAlchemy==2\n",
        }
    )
    file, text = here.change(name, old, new)
    before = {"migrations/0001_schema.sql": SCHEMA, "agentrun/queries.sql": QUERIES}.get(file)
    if before is None:
        assert text == "pytest==8\nSQLAlchemy==3\n"
    else:
        head = name if name.startswith("--") else name.partition(" ")[2]
        start = before.index(old, before.index(head) if name.startswith("--") else 0)
        assert text == before[:start] + new + before[start + len(old) :]


def test_words_of_a_query_are_found_beyond_a_comment(tree: Tree) -> None:
    here = tree({"agentrun/queries.sql": QUERIES})
    text = changed(here, "-- name: letters", "mail WHERE kind", "mail WHERE NOT kind")
    assert "SELECT kind FROM agentrun.mail WHERE NOT kind = 'signal';" in text


def test_lines_that_become_empty_go_and_others_are_indented(tree: Tree) -> None:
    here = tree({"tools/worker.py": WORKER})
    assert changed(here, "Worker.stop", "return", "") == WORKER.replace(
        "            return  # nothing is wrong\n", ""
    )
    call = 'self.close(error, "a, b")'
    new = f"""
        if hard:

            {call}
        {call}
    """
    assert changed(here, "Worker.stop", call, new) == WORKER.replace(
        call, f"if hard:\n\n            {call}\n        {call}"
    )
    assert changed(here, "Worker.stop", "and not hard", "") == WORKER.replace(
        "None and not hard:", "None :"
    )


def refusal(definitions: Definitions, name: str, old: str) -> str:
    with pytest.raises(AnchorError) as caught:
        definitions.change(name, old, "")
    return str(caught.value)


def test_what_is_missing_is_named_with_where_it_was_sought(tree: Tree) -> None:
    here = tree({"agentrun/lifecycle/worker.py": WORKER})
    assert refusal(here, "Worker.stopp", "x") == (
        "Worker.stopp is not defined in agentrun/, tools/, migrations/, "
        "which have Worker.stop or Worker"
    )
    assert "nothing similar" in refusal(here, "append", "x")
    place = "Worker.stop (agentrun/lifecycle/worker.py, line 5)"
    assert refusal(here, "Worker.stop", "error is not None") == (
        f"{place} has this 0 times and not once: error is not None"
    )
    assert refusal(here, "Worker.stop", "clos").startswith(f"{place} has this 0 times")  # a word
    assert refusal(here, "Worker.stop", "hard").startswith(f"{place} has this 2 times")


def test_a_name_of_several_definitions_is_refused_with_the_longer_ones(tree: Tree) -> None:
    here = tree(
        {
            "agentrun/lifecycle/worker.py": WORKER,
            "agentrun/store/worker.py": WORKER,
            "tools/cook.py": WORKER,
        }
    )
    assert refusal(here, "Worker.stop", "return") == (
        "Worker.stop is the name of several definitions: write one of "
        "lifecycle.worker.Worker.stop (agentrun/lifecycle/worker.py), "
        "store.worker.Worker.stop (agentrun/store/worker.py), "
        "cook.Worker.stop (tools/cook.py)"
    )
    file, _ = here.change("store.worker.Worker.stop", "return", "raise")
    assert file == "agentrun/store/worker.py"
