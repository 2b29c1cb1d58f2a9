"""One file per module of sentence-transformers: its class there, and how its files are read and written."""
