"""Benchmarks: how fast the project is beside what people use today. Nothing of the product imports them."""
