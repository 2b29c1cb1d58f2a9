"""Losses on labelled data: scored pairs, classes and triplets."""
