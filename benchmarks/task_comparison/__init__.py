"""What benchmarks/tasks.py is made of: the kinds with their slices of data, rates of serving, and the result with its table."""
