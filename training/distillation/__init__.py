"""Learning from a teacher: which agent it is, what is learned from it, and its part of the loss."""
