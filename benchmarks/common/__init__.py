"""What several benchmarks share: aims, load generator, server process and machine."""
