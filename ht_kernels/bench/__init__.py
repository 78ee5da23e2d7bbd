"""Speed, measured fairly: every implementation of a case in one process, in turn, with quartiles.

``cases`` says what is timed, ``measure`` how, ``report`` writes the numbers and the chart. ``ht-kernels bench`` and the
pytest-benchmark suite in benchmarks/ share the cases.
"""
