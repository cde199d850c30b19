"""The room that joins store and models: run context, agents, tools, steps, doubt."""
