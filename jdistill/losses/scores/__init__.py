"""Match how the teacher scores texts against each other, not the vectors themselves."""
