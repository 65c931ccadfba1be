"""Models: where their weights and tokenizers come from."""
