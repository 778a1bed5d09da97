"""The transformer: configuration, attention and its cache, embeddings, stack, head. Imports torch only."""
