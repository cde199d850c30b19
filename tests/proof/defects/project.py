"""Deliberate defects of what stands beside the package."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "the lock file forgets a package": Mutation(
        "requirements-dev.lock",
        "hypothesis==",
        "# hypothesis==",
        "examples/test_contributing.py::test_the_lock_file_pins_what_the_project_needs_and_names_no_machine",
    ),
}
