"""Side-by-side measurements, one module each: `python -m benchmarks.NAME`; the last line is one JSON object."""
