"""Regularisers of the student's vectors, independent of the texts' meaning."""
