"""Open-loop load on a Triton, and the verdict on its latency budgets."""
