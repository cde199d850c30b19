"""What durability costs, beside others: `python -m benchmarks`."""
