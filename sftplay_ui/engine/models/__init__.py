"""Base models on this machine: found by name, fetched, and judged before anything loads them."""
