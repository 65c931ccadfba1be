"""Models: sources of weights and tokenizers."""
