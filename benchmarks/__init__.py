"""The benchmarks: what is measured, beside what, and which bound holds. `python -m benchmarks` runs them all."""
