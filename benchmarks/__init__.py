"""Side-by-side measurements: what undertow costs against plain anyio. Never shipped; `python -m benchmarks`."""
