"""SFT-Play: from a question/answer file to a fine-tuned language model."""

__version__ = "0.1.0"
