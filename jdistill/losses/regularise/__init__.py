"""Shape the student's vectors by themselves, whatever their texts."""
