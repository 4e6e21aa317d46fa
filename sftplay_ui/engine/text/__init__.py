"""From a conversation to tokens: chat templates, and which tokens are learned."""
