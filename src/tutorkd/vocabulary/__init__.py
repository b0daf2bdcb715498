"""A smaller vocabulary for a model: its tokens, its tokenizer, its embeddings."""
