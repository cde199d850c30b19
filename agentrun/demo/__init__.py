"""`agentrun demo`: a support agent is killed three times, and nothing is paid or done twice.

``world``    the outside world: doubles of model, mail and carrier, and a shop in the database
``support``  the agent
``worker``   the process that runs it, and is killed
``play``     the three kills
``ledger``   what the outside world says happened, and whether that is right
``show``     how it is told in a terminal
"""

from __future__ import annotations

__all__ = ["main"]


def main(*, as_json: bool = False, base_url: str | None = None, model: str | None = None) -> int:
    """Run the demo; return 0, or 1 if a number is wrong.

    With ``base_url``, ``model`` or OPENAI_API_KEY the model is a real one, otherwise a double.
    ``as_json`` prints one line of JSON on standard output, and the progress on standard error.
    """
    from agentrun.demo.show import perform

    return perform(as_json=as_json, base_url=base_url, model=model)
