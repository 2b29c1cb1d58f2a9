"""Making a smaller model out of a trained one: fewer layers, heads and neurons, a narrower width, a smaller vocabulary.

`prune` does it; what it needs to know of the training texts is a `Corpus`.
"""
