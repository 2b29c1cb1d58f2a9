"""Tell each text's partner from all other texts of the batch."""
