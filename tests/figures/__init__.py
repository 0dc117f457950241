"""Which file under `benchmarks/results` each number in the documentation comes from, by page."""
