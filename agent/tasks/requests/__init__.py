"""What requests may ask for beside their inputs."""
