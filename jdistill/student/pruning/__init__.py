"""Pruning a trained model: a smaller width, fewer heads, neurons and tokens, chosen by training texts.

`prune.prune` is called by `jdistill prune`. Leaving out layers takes no texts and belongs to `student.keep_layers`.
"""
