"""What benchmarks/serving_throughput.py is made of besides its rivals: servers as processes, load, ceilings, figures, table and picture."""
