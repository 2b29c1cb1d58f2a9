"""Other losses, asked for at prefixes of the vectors and at earlier layers of the student."""
