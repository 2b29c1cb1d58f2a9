"""Learn from scores or triples that people gave."""
