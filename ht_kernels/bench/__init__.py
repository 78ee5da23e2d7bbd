"""Speed measurement: all implementations of a case are timed in turn, in one process, and reported with quartiles.

``cases`` defines what is timed, ``measure`` how, and ``runner`` does it; ``report`` and ``chart`` show the results.
``ht-kernels bench`` and the pytest-benchmark suite in benchmarks/ share the cases.
"""
