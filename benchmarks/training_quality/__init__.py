"""What trained agents answer: from few labels, and over line ends."""
