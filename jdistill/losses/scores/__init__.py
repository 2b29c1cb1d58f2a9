"""Match how the teacher scores texts against each other, rather than where it puts them."""
