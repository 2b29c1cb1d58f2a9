"""Pruning a trained model: fewer layers, heads and neurons, a smaller width, a smaller vocabulary.

The entry point is `prune`; it reads training texts through a `Corpus`.
"""
