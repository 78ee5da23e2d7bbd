"""Speed, measured fairly: every implementation of a case in one process, in turn, with quartiles.

``cases`` says what is timed, ``measure`` how, ``runner`` does it, ``report`` and ``chart`` show what came of it.
``ht-kernels bench`` and the pytest-benchmark suite in benchmarks/ share the cases.
"""
