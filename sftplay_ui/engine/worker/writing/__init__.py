"""Writing answers with a loaded model, one token after the other."""
