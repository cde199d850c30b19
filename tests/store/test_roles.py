"""Roles: a real workload as each of them, by logins that have that role and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, LiteralString, cast

import openai
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import agentrun
from agentrun.core.errors import AgentrunError, ConfigError, RunHeld
from agentrun.store import roles
from agentrun.store.audit import read_only_query
from agentrun.store.connection import connect
from agentrun.store.database import OpenDatabase
from agentrun.store.run_list import list_runs
from agentrun.store.runs import find_run
from agentrun.testing import Call, Provider, Reply

pytestmark = pytest.mark.direct("logins of its own")

Login = Callable[[str], str]


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(cast(LiteralString, statement))


def refused(dsn: str, statement: str) -> str:
    """What the database says to a statement that it has to refuse."""
    with psycopg.connect(dsn) as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute(cast(LiteralString, statement))
    return str(caught.value)


@agentrun.tool(effect="once", approve=True)
def refund(order: str) -> str:
    return f"refunded {order}"


def test_each_login_does_its_own_work(dsn: str, login: Login, provider: Provider) -> None:
    """Streams, limits, budgets, children and approvals, with no right beyond the roles."""
    client = agentrun.wrap(openai.OpenAI(base_url=provider.base_url, api_key="k"))
    provider.say([Reply(tool_calls=[Call("refund", {"order": "7"})]), "done"])

    @agentrun.agent
    def child(n: int) -> int:
        return n + 1

    @agentrun.agent
    def support(question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            stream = client.chat.completions.create(
                model="gpt-5-mini",
                messages=messages,
                tools=agentrun.schemas(refund),
                stream=True,
                stream_options={"include_usage": True},
            )
            text, calls = "", {}
            for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    for call in choice.delta.tool_calls or []:
                        kept = calls.setdefault(call.index, {"id": call.id, "arguments": ""})
                        kept["arguments"] += call.function.arguments or ""
            if not calls:
                return f"{text} {child.run(1)}"
            messages.append({"role": "assistant", "content": None, "tool_calls": [
                {"id": call["id"], "type": "function", "function": {
                    "name": "refund", "arguments": call["arguments"]}}
                for call in calls.values()]})  # fmt: skip
            for call in calls.values():
                result = refund(**json.loads(call["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    with agentrun.connect(login("operator")) as database:
        database.query("set_limit", model="openai/*", rpm=1000, tpm=10_000_000, concurrency=5)
    ticket = support.with_options(key="t", budget=agentrun.Budget(usd=1))
    with agentrun.connect(login("worker")), pytest.raises(RunHeld) as held:
        ticket.run("refund order 7")
    with agentrun.connect(login("approver")):
        with pytest.raises(ConfigError, match="approver"):
            agentrun.cancel("t")
        with pytest.raises(ConfigError, match="execute runs"):
            ticket.run("refund order 7")
        assert held.value.step is not None
        agentrun.approve("t", held.value.step, by="ada")
    with agentrun.connect(login("worker")):
        assert ticket.run("refund order 7") == "done 2"
    for role in "reader", "auditor", "approver", "worker":
        with read_only_query(login(role), "SELECT name FROM tool_calls") as answer:
            assert ("refund",) in list(answer.rows)
    with agentrun.connect(login("operator")):
        assert agentrun.prune(older_than=timedelta(microseconds=1)).runs == 2


CHANGES = (
    "UPDATE agentrun.runs SET status = 'failed', owner = NULL",
    "UPDATE agentrun.runs SET epoch = epoch + 1",
    "UPDATE agentrun.runs SET key = 'another'",
    "INSERT INTO agentrun.tombstones SELECT run_id, key, agent, status, now(), 1, 1, run_id"
    " FROM agentrun.runs",
    "DELETE FROM agentrun.runs",
    "DELETE FROM agentrun.journal",
    "DELETE FROM agentrun.payloads",
    "DELETE FROM agentrun.mail",
    "DELETE FROM agentrun.tombstones",
    "TRUNCATE agentrun.journal",
    "TRUNCATE agentrun.runs",
    "UPDATE agentrun.journal SET reason = 'x'",
    "UPDATE agentrun.mail SET reason = 'x'",
    "UPDATE agentrun.payloads SET size = 1",
    "ALTER TABLE agentrun.journal DISABLE TRIGGER ALL",
    "DROP TRIGGER runs_follow_the_journal ON agentrun.runs",
    "SELECT agentrun.prune(now())",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_worker_cannot_rewrite_what_happened(dsn: str, login: Login, change: str) -> None:
    @agentrun.agent
    def done(n: int) -> int:
        return n

    with agentrun.connect(login("worker")):
        assert done.with_options(key="k").run(1) == 1
    refused(login("worker"), change)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT key, status FROM agentrun.runs").fetchall() == [("k", "done")]


def test_guards_mean_the_catalog_and_not_what_a_session_calls_so(dsn: str, login: Login) -> None:
    """Temporary tables come first where a name is looked up, before those of the catalog."""

    @agentrun.tool(effect="transaction")
    def decide(run_id: str) -> None:
        conn = agentrun.current_step().connection
        conn.execute("CREATE TEMPORARY TABLE pg_settings (name text, reset_val text)")
        conn.execute(
            "INSERT INTO agentrun.mail (run_id, id, kind, step, payload)"
            " VALUES (%s, gen_random_uuid(), 'approve', 1, '{}')",
            [run_id],
        )

    @agentrun.agent
    def held() -> str:
        return refund("7")

    @agentrun.agent
    def deciding(run_id: str) -> None:
        decide(run_id)

    with agentrun.connect(dsn) as db:  # workers may write no letter of their own
        with pytest.raises(RunHeld):
            held.with_options(key="held").run()
        with pytest.raises(AgentrunError, match="a tool cannot decide"):
            deciding.run(str(find_run(db, "held").run_id))
        assert [one.step for one in agentrun.inbox("held")] == [1]
    assert "follows its journal" in refused(
        login("worker"),
        "CREATE TEMPORARY TABLE pg_class AS SELECT 'agentrun.runs'::regclass::oid AS oid,"
        " r.oid AS relowner FROM pg_roles r WHERE r.rolname = session_user;"
        "UPDATE agentrun.runs SET status = 'done', parked_for = NULL",
    )


def test_an_approver_sends_no_other_letters_and_forges_none(dsn: str, login: Login) -> None:
    @agentrun.agent
    def waits() -> Any:
        return agentrun.receive("go")

    with agentrun.connect(dsn):
        waits.with_options(key="w").submit()
    approver = login("approver")
    for kind in "signal", "cancel", "resolve":
        assert "approver" in refused(approver, f"SELECT agentrun.send('w', '{kind}')")
    refused(approver, "INSERT INTO agentrun.mail (run_id, id, kind) SELECT run_id, run_id, 'x'"
            " FROM agentrun.runs")  # fmt: skip
    refused(approver, "UPDATE agentrun.runs SET wake_at = now()")
    for reader in "reader", "auditor":
        assert "send" in refused(login(reader), "SELECT agentrun.send('w', 'approve', 1)")


@pytest.mark.parametrize("role", ["reader", "auditor", "approver"])
def test_who_only_looks_does_not_see_exact_values(dsn: str, login: Login, role: str) -> None:
    for table in roles.HIDDEN if role != "approver" else ["exact_values", "gateway_answers"]:
        refused(login(role), f"TABLE agentrun.{table}")
    with connect(dsn) as conn:
        roles.create(conn, prefix=str(conninfo_to_dict(dsn)["dbname"]), exact=True)
    if role == "auditor":
        execute(login("auditor"), "TABLE agentrun.exact_values")


def test_a_missing_privilege_is_said_before_there_is_a_run(dsn: str, login: Login) -> None:
    @agentrun.agent
    def never(n: int) -> int:
        raise AssertionError("it was executed")

    worker = login("worker")
    name = conninfo_to_dict(dsn)["dbname"]
    execute(dsn, f"REVOKE UPDATE ON agentrun.limits FROM {name}_worker")
    execute(dsn, f"REVOKE EXECUTE ON FUNCTION agentrun.send FROM {name}_worker")
    told = "EXECUTE on send, UPDATE on limits.*agentrun roles grant worker"
    with agentrun.connect(worker) as database:
        with pytest.raises(ConfigError, match=told):
            never.run(1)
        with pytest.raises(ConfigError, match=told), agentrun.Worker([never]):
            pass
        assert list_runs(database, limit=9) == []
    with connect(dsn) as conn:
        roles.grant_again(conn)  # as a migration does
        assert roles.missing_privileges(conn, "worker") == []
    with agentrun.connect(worker) as database:
        database.check_privileges()


def test_a_login_without_a_role_is_told_so(dsn: str, login: Login) -> None:
    user = f"{conninfo_to_dict(dsn)['dbname']}_nobody"
    execute(dsn, f"CREATE ROLE {user} LOGIN")
    try:
        with pytest.raises(ConfigError, match=f"{user}.*agentrun roles grant reader"):
            agentrun.connect(make_conninfo(dsn, user=user))
    finally:
        execute(dsn, f"DROP ROLE {user}")


def test_the_sql_of_a_tool_writes_no_letters_and_no_history(dsn: str, login: Login) -> None:
    execute(dsn, "CREATE TABLE public.orders (id text)")
    tools = login("tools")
    user = conninfo_to_dict(tools)["user"]
    execute(dsn, f"GRANT ALL ON public.orders TO {user}")

    @agentrun.tool(effect="transaction")
    def query(statement: str) -> str:
        conn = agentrun.current_step().connection
        conn.execute("INSERT INTO public.orders VALUES ('7')")
        conn.execute(statement)
        return "did it"

    @agentrun.agent
    def model(statement: str) -> str:
        return query(statement)

    forged = (
        "INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event)"
        " SELECT run_id, 1000, 1, 'w', run_id, 'run_finished' FROM agentrun.runs"
    )
    with agentrun.connect(login("worker"), tools_dsn=tools):
        assert model.with_options(key="k").run("SELECT 1") == "did it"
        for statement in (
            "SELECT agentrun.send('k', 'approve', 3)",
            "SELECT agentrun.send('k', 'signal')",
            "INSERT INTO agentrun.mail (run_id, id, kind) VALUES (gen_random_uuid(),"
            " gen_random_uuid(), 'approve')",
            "UPDATE agentrun.journal SET reason = 'x'",
            "DELETE FROM agentrun.journal",
            "UPDATE agentrun.runs SET status = 'queued', owner = NULL",
            "SELECT input FROM agentrun.journal",
            f"SET ROLE {conninfo_to_dict(dsn)['dbname']}_worker",
            "RESET ROLE; SELECT agentrun.send('k', 'approve', 3)",
            forged,
        ):
            with pytest.raises(AgentrunError):
                model.run(statement)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM public.orders").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM agentrun.mail").fetchone() == (0,)
    with pytest.raises(ConfigError, match=r"lacks.*journal"):
        agentrun.connect(dsn, tools_dsn=login("reader"))


def test_every_table_is_known_to_a_role_or_only_read(dsn: str) -> None:
    """A new table has to be put somewhere: what workers write, or what only the owner does."""
    only_read = {"migrations", "blob_folder", "roles", "tombstones", "mail"}
    with psycopg.connect(dsn) as conn:
        tables = {name for (name,) in conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'agentrun'::regnamespace"
            " AND relkind IN ('r', 'p')")}  # fmt: skip
    assert tables - set(roles._WORKER) - only_read == set()


@pytest.mark.parametrize("statement", [
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY (SELECT 1) TO '/tmp/f'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_reload_conf()",
    "SELECT pg_create_physical_replication_slot('s')",
    "SELECT lo_import('/etc/passwd')",
    "ALTER SYSTEM SET log_statement = 'all'",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT set_config('role', 'postgres', false)",
    "CREATE TABLE agentrun.mine (id int)",
    "UPDATE agentrun.runs SET reason = 'x'",
])  # fmt: skip
def test_the_login_of_sql_in_the_embedded_server_only_reads(
    own: OpenDatabase, statement: str
) -> None:
    refused(roles.reader_dsn(own.dsn), statement)


@pytest.fixture(scope="module")
def own() -> Iterator[OpenDatabase]:
    """The embedded server of the session, as those use it who name no database."""
    with agentrun.connect() as database:
        yield database


def test_sql_on_the_command_line_asks_by_that_login(own: OpenDatabase) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "agentrun", "sql", "--json", "SELECT session_user FROM migrations"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(told.stdout)[0]["session_user"] == "agentrun_sql"
