"""The pure room: events, codec, fingerprints, step identity, state tables, transcript.

Nothing in here does I/O, reads a clock or starts a thread; every other room may import it and
it imports none of them (`tests/test_house.py` enforces the arrows).
"""
