"""The torch world: everything that lives in a run's worker process.

Nothing outside this folder imports it; it is reached by starting
`python -m sftplay_ui.engine.worker <run folder>`, which `runs` does.
"""
