"""How fast it is, measured: each module is one benchmark, run with ``python -m benchmarks.<name>``.

Every one checks that what it timed was right before it prints a figure, and measures what it is compared with in the
same run, because a machine is never the same twice.
"""
