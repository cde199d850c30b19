"""Values come back exactly, and what cannot is refused with its path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hostile import JSON, exactly
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.core import codec
from agentrun.core.codec import (
    ENVELOPE,
    LIMIT,
    MAX_DEPTH,
    Codec,
    Payload,
    Undecodable,
    Unserialisable,
    check,
    check_in,
    check_out,
    decode,
    dumps,
    encode,
    fingerprint,
    loads,
    preview,
)
from agentrun.core.sharing import Shared

BOUNDED = settings(max_examples=300, deadline=None, database=None)


def nested(levels: int, wrap: Callable[[Any], Any] = lambda value: [value]) -> Any:
    value: Any = "core"
    for _ in range(levels):
        value = wrap(value)
    return value


# -- round trip ----------------------------------------------------------------------------------


@BOUNDED
@given(JSON)
def test_any_finite_json_round_trips_exactly(value: Any) -> None:
    text, escaped = dumps(value)
    assert exactly(loads(text, escaped)) == exactly(value)


@BOUNDED
@given(JSON)
def test_stored_text_is_ascii_that_postgres_can_open(value: Any) -> None:
    text, _ = dumps(value)
    assert text.isascii()
    json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")  # no lone surrogate
    assert not re.search(r"(?<!\\)(?:\\\\)*\\u0000", text)


@BOUNDED
@given(JSON)
def test_only_nul_and_lone_surrogates_need_the_escape(value: Any) -> None:
    raw = json.dumps(value, ensure_ascii=False)
    needed = bool(re.search(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000", raw))
    text, escaped = dumps(value)
    assert escaped is needed
    if not escaped:
        assert text == json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize(
    "value",
    [
        "\ud83d\ude00",  # two lone surrogates, which JSON would join
        "😀",
        "😀\ude00",
        "\ud83d😀",
        "\0",
        "\\\0",
        "\\u0000",
        "␛0000",
        "␛0000\0",
        "\\u241b0000\0",
        {"\0": "\ud800", "␛": 1},
        "ends in a backslash \\",
        "x" * 1_000_000 + "\0",
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_hostile_text_round_trips(value: Any) -> None:
    text, escaped = dumps(value)
    assert loads(text, escaped) == value


def test_a_pair_of_surrogates_and_the_character_it_spells_stay_two_values() -> None:
    assert dumps("\ud83d\ude00") != dumps("😀")
    assert fingerprint("\ud83d\ude00") != fingerprint("😀")


def test_numbers_keep_their_type_and_digits() -> None:
    value = [1e2, 100, -0.0, 0.0, 1, 1.0, True, None, 10**4_300 - 1, 5e-324, 0.1]
    assert exactly(loads(*dumps(value))) == exactly(value)
    assert dumps([1e2, -0.0]) == ("[100.0,-0.0]", False)


def test_keys_keep_their_order() -> None:
    assert dumps({"b": 1, "a": 2})[0] == '{"b":1,"a":2}'


def test_tuples_are_stored_as_lists() -> None:
    assert dumps((1, (2,))) == ("[1,[2]]", False)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"items": [0, {"price": math.nan}]}, r"result\.items\[1\]\.price is NaN"),
        ([-math.inf], r"result\[0\] is -Infinity"),
        ({"a": {1: 2}}, r"result\.a has the key 1 \(int\)"),
        ({"odd key": b""}, r'result\["odd key"\] is of type bytes'),
        ([-(10**4300)], r"result\[0\] is an integer of more than 4300 digits"),
        ({"x": {1, 2}}, r"result\.x is of type set"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_path(value: Any, message: str) -> None:
    with pytest.raises(Unserialisable, match=message):
        encode(value, at="result")


@pytest.mark.parametrize(
    ("wrap", "levels"),
    [(lambda v: [v], 1), (lambda v: {"k": v}, 1), (lambda v: [{"k": v}], 2)],
    ids=["lists", "dicts", "lists of dicts"],
)
def test_values_are_nested_up_to_the_limit_and_no_deeper(
    wrap: Callable[[Any], Any], levels: int
) -> None:
    deepest = nested(MAX_DEPTH // levels, wrap)
    check(deepest)
    for _ in range(ENVELOPE):
        deepest = {"record": deepest}
    writer, reader = Shared(), Shared()
    stored = encode(deepest, pack=writer.pack_both)
    assert decode(stored.text, stored.escaped, unpack=reader.unpack) == deepest
    with pytest.raises(Unserialisable, match=f"more than {MAX_DEPTH} levels"):
        dumps(nested(MAX_DEPTH // levels + 1, wrap))


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.extend([value, value])
    with pytest.raises(Unserialisable, match="contains itself"):
        dumps(value)


def test_a_refusal_shows_no_secret_from_a_key() -> None:
    with pytest.raises(Unserialisable) as caught:
        dumps({"sk-proj-abcdefghijklmnop1234567890": math.nan})
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("NaN", False),
        ("[1", False),
        ('"\\u241b"', True),
        ('"\\u241b0022"', True),
        ("[" * 100_000, False),
        ("9" * 5000, False),
    ],
)
def test_text_that_is_not_ours_is_refused(text: str, escaped: bool) -> None:
    with pytest.raises(Undecodable):
        loads(text, escaped)


def test_others_may_write_json_with_space_around_it() -> None:
    assert loads(' {"a": 1}\n', False) == {"a": 1}


# -- fingerprints --------------------------------------------------------------------------------


def test_fingerprint_ignores_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})


def test_fingerprint_tells_types_and_zeros_apart() -> None:
    values: list[Any] = [1, 1.0, True, "1", 0.0, -0.0, None, [], {}, "", [1], {"1": None}]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_fingerprint_tells_a_text_from_its_escape() -> None:
    assert fingerprint("\0") != fingerprint("␛0000")


@BOUNDED
@given(JSON)
def test_fingerprint_survives_storage(value: Any) -> None:
    stored = encode(value)
    again = decode(stored.text, stored.escaped)
    assert fingerprint(again) == fingerprint(stored.value)


def test_fingerprint_names_what_it_cannot_hold() -> None:
    with pytest.raises(Unserialisable, match=r"value\.a is NaN"):
        fingerprint({"a": math.nan})


# -- claim checks --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_up_to_the_limit_a_text_stays_in_its_row(size: int) -> None:
    text = '"' + "x" * (size - 2) + '"'
    assert check_in(text) == (text, None)


def test_over_the_limit_the_row_holds_a_claim_check() -> None:
    text = '"' + "é\\u0007 ".encode("unicode_escape").decode() * LIMIT + '"'
    row, payload = check_in(text)
    assert payload is not None
    claim = json.loads(row)
    assert claim.keys() == {"payload", "size", "preview"}
    assert (claim["payload"], claim["size"]) == (payload.digest, len(text))
    assert len(row) < 2000
    assert check_out(row, {payload.digest: payload.zstd}.__getitem__) == text


def test_a_damaged_payload_is_refused() -> None:
    row, payload = check_in('"' + "x" * LIMIT + '"')
    assert payload is not None
    other = zstandard.ZstdCompressor().compress(b"y" * payload.size)
    bomb = zstandard.ZstdCompressor().compress(b"\0" * 10_000_000)
    for damaged in (b"", payload.zstd[:-3], other, bomb):
        with pytest.raises(Undecodable, match=payload.digest):
            check_out(row, {payload.digest: damaged}.__getitem__)


def test_a_row_without_a_claim_check_is_refused() -> None:
    with pytest.raises(Undecodable, match="claim check"):
        check_out('{"size":3}', lambda _: b"")


def test_preview_is_short_and_cannot_act() -> None:
    text = dumps("你好\x1b[31m\u202e\0" + "x" * 5000)[0]
    shown = preview(text)
    assert shown.startswith('"你好')
    assert shown.endswith("…")
    assert len(shown) <= 201
    assert shown.isprintable()
    assert preview('"short"') == '"short"'


@BOUNDED
@given(st.text(st.characters(exclude_categories=()), max_size=2000))
def test_preview_of_any_text_can_be_stored(text: str) -> None:
    assert dumps(preview(dumps(text)[0]))[1] is False


# -- one write path, one read path ---------------------------------------------------------------


@BOUNDED
@given(st.lists(JSON, max_size=4), st.integers(0, 200))
def test_what_encode_stores_decode_gives_back(values: list[Any], limit: int) -> None:
    writer, reader = Shared(), Shared()
    for value in values:
        stored = encode(value, pack=writer.pack_both, limit=limit)
        fetch = None
        if stored.payload:
            fetch = {stored.payload.digest: stored.payload.zstd}.__getitem__
        again = decode(stored.text, stored.escaped, fetch, reader.unpack)
        assert exactly(again) == exactly(stored.value)


def test_flags_say_what_was_done() -> None:
    plain = encode("x")
    assert plain.as_input() == plain.as_output() == Codec(0)
    secret = "\0 Bearer abcdefgh0123ijklmnop1234"
    busy = encode(secret, pack=Shared().pack_both, limit=5)
    assert busy.as_input() == (
        Codec.INPUT_ESCAPED | Codec.INPUT_PAYLOAD | Codec.INPUT_SHARED | Codec.INPUT_MASKED
    )
    output = encode(secret, limit=5)
    assert output.as_output() == Codec.OUTPUT_ESCAPED | Codec.OUTPUT_PAYLOAD | Codec.OUTPUT_MASKED
    with pytest.raises(ValueError, match="without pack="):
        busy.as_output()


def test_secrets_reach_neither_row_nor_payload_nor_preview() -> None:
    secret = "sk-proj-abcdefghijklmnop1234567890"
    stored = encode({"body": secret + " " + "x " * LIMIT, secret: 1})
    assert isinstance(stored.payload, Payload)
    text = zstandard.ZstdDecompressor().decompress(stored.payload.zstd).decode()
    assert stored.masked == {"openai key": {"count": 2, "chars": 68}}
    for shown in (stored.text, text, repr(stored), repr(stored.shown)):
        assert secret not in shown


SECRETS = st.sampled_from(["sk-proj-a1B2a1B2a1B2a1B2a1B2", "\ud800 password=a1B2c3D4"])


@BOUNDED
@given(st.lists(JSON | SECRETS, max_size=4), st.integers(0, 200))
def test_what_code_saw_comes_back_exactly_where_people_see_a_mask(
    values: list[Any], limit: int
) -> None:
    writer, reader, viewer = Shared(), Shared(), Shared()
    for value in [{"told": values}, *values, values]:
        stored = encode(value, pack=writer.pack_both, limit=limit)
        payloads = {p.digest: p.zstd for p in [stored.payload] if p}
        fetch = payloads.__getitem__ if stored.payload else None
        assert exactly(decode(stored.text, stored.escaped, fetch, viewer.unpack)) == exactly(
            stored.shown
        )
        if stored.exact is None:
            again = decode(stored.text, stored.escaped, fetch, reader.unpack)
        else:
            again = codec.decode_exact(stored.exact, reader.unpack)
        assert exactly(again) == exactly(value)


def test_a_refused_value_leaves_the_shared_tables_as_they_were() -> None:
    writer, reader = Shared(), Shared()
    known = "a text that is long enough to be referenced " * 3
    with pytest.raises(Unserialisable):
        encode([known, math.nan], pack=writer.pack_both)
    stored = encode([known], pack=writer.pack_both)
    assert decode(stored.text, stored.escaped, unpack=reader.unpack) == [known]


def test_the_module_offers_what_it_says() -> None:
    assert all(hasattr(codec, name) for name in codec.__all__)


@pytest.mark.parametrize("data", [b"", b"\0\xff raw bytes", b"x" * 100_000])
def test_attached_bytes_come_back_exactly(data: bytes) -> None:
    payload = codec.attach(data)
    assert codec.detach(payload.zstd, payload.digest) == data
    with pytest.raises(Undecodable, match="00"):
        codec.detach(payload.zstd, "00" * 16)
