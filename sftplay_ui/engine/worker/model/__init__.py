"""The model in a worker: loaded, made ready to learn, and made fast."""
