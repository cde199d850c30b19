"""Credentials are removed, ordinary ids are not, and a second pass changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.core.secrets import Redactor, redact

BOUNDED = settings(max_examples=400, deadline=None, database=None)

R = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"  # looks random
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{R}"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"

# what stands in the text; the part of it that must be gone; the kind shown in its place
SECRETS = [
    (f"sk-proj-{R}-{R}_x", R, "openai key"),
    (f"sk-{R}", R, "openai key"),
    (f"sk-ant-api03-{R}", R, "anthropic key"),
    (f"Authorization: Bearer {R}", R, "bearer token"),
    (f"BEARER {R}==", R, "bearer token"),
    ("Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA", "basic credentials"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7", "aws key id"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr", "aws secret"),
    ('{"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}', "wJalr", "aws secret"),
    (f"ghp_{R}ABCD", R, "github token"),
    (f"github_pat_11ABC_{R}", R, "github token"),
    (f"xoxb-123456789012-{R}", R, "slack token"),
    (f"AIza{R}abc", R, "google key"),
    (f"https://host/v1?key=AIza{R}abc&x=1", R, "google key"),
    (JWT, R, "jwt"),
    (PEM, "MIIEow", "private key"),
    (PEM[:40], "MIIE", "private key"),
    (json.dumps({"pem": PEM}), "MIIEow", "private key"),
    ("postgresql://user:hunter2@db.example/app", "hunter2", "password"),
    ("postgresql://user:p@ss:w0rd@db/app", "w0rd", "password"),
    ("redis://:hunter2@cache:6379/0", "hunter2", "password"),
    ("host=db user=me password=hunter2 dbname=x", "hunter2", "password"),
    ("host=db password='hun ter2' dbname=x", "ter2", "password"),
    ("host=db password=pa$$w,rd2 dbname=x", "rd2", "password"),
    ('connect(password="hunter2")', "hunter2", "password"),
    ("Server=db;Password=hunter2;Timeout=3", "hunter2", "password"),
    (f"curl -H 'x-api-key: {R}'", R, "api key"),
    (f"sk_live_{R}", R, "stripe key"),
    (f"curl -b x -H 'Cookie: theme=dark-mode; session={R}; v=2'", R, "cookie"),
    (f"Set-Cookie: id={R}; Path=/; HttpOnly", R, "cookie"),
]

ORDINARY = [
    "call_abc123def456ghi789jkl012",
    "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
    "resp_67ccd3a9da748190baa7f1570fe91ac604becb25c45c1d41",
    "msg_67ccd3acc8d48190a77525dc6de64b4104becb25c45c1d41",
    "toolu_01A09q90qw90lq917835lq9",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "123e4567-e89b-12d3-a456-426614174000",
    "task-0123456789abcdef0123456789abcdef",
    "a basic understanding of mathematics, basic authentication and Basic information",
    "the basic aGVsbG8gd29ybGQh, which is base64 of no user and password",
    "the bearer of bad news; a bearer token is a credential",
    "set your password in the password field: the password is secret",
    "password=$PGPASSWORD and password={password} and password=%s",
    "https://example.com:8080/path?mail=me@example.com",
    "git+ssh://git@github.com/org/repo.git",
    f"postgresql://{'{user}:{password}'}@host/db",
    "eyJ0b29sIjoiYSJ9",
    "a cookie: flour=200g and sugar; cookies: off, Cookie: a=b",
    "gAAAAABn-sk-" + R * 20,  # URL-safe base64, as in encrypted reasoning
    "iVBORw0KGgo/AKIAIOSFODNN7EXAMPLE" + R * 20,
    "xoxo, hf_ and gho_ are no keys",
]


@pytest.mark.parametrize(("text", "part", "kind"), SECRETS)
def test_a_credential_is_removed_wherever_it_stands(text: str, part: str, kind: str) -> None:
    clean, changed = redact({"a": [f"before {text}\nafter {text}"], text: 1})
    assert changed
    assert part not in repr(clean)
    assert f"[removed: {kind}]" in clean["a"][0]
    assert clean["a"][0].startswith("before ")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    value = {"id": text, text: [text]}
    clean, changed = redact(value)
    assert clean is value
    assert not changed


def test_a_dsn_keeps_user_and_host() -> None:
    assert redact("postgresql://me:x@db:5432/app")[0] == (
        "postgresql://me:[removed: password]@db:5432/app"
    )


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key", "COOKIE", "Set-Cookie"])
def test_values_of_sensitive_headers_are_removed(name: str) -> None:
    gone = f"[removed: {name.lower()}]"
    value = {name: "abc", "pairs": [["accept", "*/*"], [name, "abc"]], "many": {name: ["a", "b"]}}
    assert redact(value)[0] == {
        name: gone,
        "pairs": [["accept", "*/*"], [name, gone]],
        "many": {name: [gone, gone]},
    }
    assert redact(((name, "abc"),))[0] == [[name, gone]]


def test_a_schema_that_speaks_of_a_header_is_left_alone() -> None:
    schema = {
        "properties": {"authorization": {"type": "string", "description": "a header"}},
        "required": ["authorization", "body"],
    }
    assert redact(schema) == (schema, False)


def test_known_values_are_removed_longest_first() -> None:
    known = Redactor(["correct horse battery", "correct horse", "short"])
    clean, changed = known({"a": "say correct horse battery, not correct horse or short"})
    assert changed
    assert clean == {"a": "say [removed: known secret], not [removed: known secret] or short"}


def test_two_secrets_as_keys_stay_two_entries() -> None:
    clean, _ = redact({f"sk-{R}a": 1, f"sk-{R}b": 2, "[removed: openai key]": 3})
    assert sorted(clean.values()) == [1, 2, 3]


def test_nothing_is_changed_in_place() -> None:
    value = {"a": [f"sk-{R}"], "b": "x"}
    redact(value)
    assert value == {"a": [f"sk-{R}"], "b": "x"}


def test_a_text_found_clean_before_is_the_same_object_again() -> None:
    text = "nothing to see here " * 100
    assert redact.text(text) is text
    again = "".join([text[:50], text[50:]])
    assert redact.text(again) is again


PIECES = [text for text, _, _ in SECRETS] + [
    "sk-",
    "password=",
    "password='",
    "://",
    "a:",
    "@",
    "Bearer ",
    "basic ",
    "eyJ",
    R,
    " ",
    "'",
    "[removed: password]",
    "[removed: openai key]",
    "known secret] and",
    "-----BEGIN PRIVATE KEY-----",
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
NAMES = HOSTILE | st.sampled_from(["authorization", "cookie"])
VALUE = st.recursive(
    HOSTILE | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@BOUNDED
@given(VALUE)
def test_a_second_pass_changes_nothing(value: Any) -> None:
    for redactor in (redact, Redactor([R, "known secret] and", "hunter2@db.example"])):
        clean, _ = redactor(value)
        assert redactor(clean) == (clean, False)
