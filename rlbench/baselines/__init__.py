"""Classical baselines without a language model, from popularity to BM25. They are tuned on validation."""
