"""Losses that apply another loss to prefixes of the vectors or to earlier layers of the student."""
