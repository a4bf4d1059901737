"""What the steps of a compression read and change."""
