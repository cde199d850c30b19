"""Commands that people copy: a shell gives agentrun the key of the run, whatever is in it."""

from __future__ import annotations

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st
from journals import HOSTILE

from agentrun.core.shell import quote_word, write_command
from agentrun.view.safe import visible

_KEYS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))


def words_of(command: str) -> list[str]:
    """The words that a shell makes of a command."""
    shell = ["bash", "-c", f"printf '%s\\0' {command}"]
    printed = subprocess.run(shell, env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    return printed.stdout.decode().split("\0")[:-1]


def test_a_key_is_one_visible_word_of_a_shell() -> None:
    hostile = HOSTILE.replace("\x00", "").replace("\ud800", "")
    keys = [
        "a b",
        "it's",
        "\t",
        "a\nb",
        "$(id) `id` \\ ! 'x'\t",
        "\x1b[2J1\r",
        "\x9b\u202e\U000e0001f",
    ]
    for key in (*keys, hostile):
        assert visible(quote_word(key)) == quote_word(key)
        assert words_of(quote_word(key)) == [key]


@given(_KEYS)
@settings(max_examples=40, deadline=None)
def test_a_shell_reads_any_keys_back(keys: list[str]) -> None:
    assert words_of(" ".join(["x", *map(quote_word, keys)])) == ["x", *keys]


def test_a_key_that_looks_like_an_option_stands_behind_two_dashes() -> None:
    plain = write_command("reject", "held", 2, options="--reason WHY")
    assert plain == "agentrun reject held 2 --reason WHY"
    assert write_command("inbox", "held") == "agentrun inbox held"
    dashed = write_command("reject", "-held\t", 2, options="--reason WHY")
    assert dashed == "agentrun reject --reason WHY -- $'-held\\t' 2"
