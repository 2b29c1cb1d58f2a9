"""The student as a folder that sentence-transformers and transformers load, proven equal, with a model card."""
