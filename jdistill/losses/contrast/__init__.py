"""Contrastive losses: separate each text's partner from the other texts of the batch."""
