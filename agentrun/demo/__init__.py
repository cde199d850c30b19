"""`agentrun demo`: a support agent is killed three times, and nothing is paid or done twice.

``world``    the outside world: doubles of model, mail and carrier, and a shop in the database
``support``  the agent
``worker``   the process that runs the agent and is killed
``play``     the three kills
``ledger``   the numbers of the outside world, and a check of them
``show``     the output in a terminal
``caching``  two more agents, for `agentrun crashtest --cache`
"""

from __future__ import annotations

__all__ = ["main"]


def main(*, as_json: bool = False, base_url: str | None = None, model: str | None = None) -> int:
    """Run the demo, and return 0, or 1 if a number is wrong.

    With ``base_url`` or OPENAI_API_KEY the model is a real one, otherwise a double. With
    ``as_json``, stdout gets one line of JSON, and stderr the progress.
    """
    from agentrun.demo.show import perform

    return perform(as_json=as_json, base_url=base_url, model=model)
