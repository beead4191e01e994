"""How does a network without positional embeddings find the previous token?"""
