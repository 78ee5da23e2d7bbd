"""Speed measurement: all implementations of a case are timed in turn, in one process, and reported with quartiles.

Against the published way: ``cases`` defines what is timed, ``measure`` how, and ``runner`` does it; ``report`` and
``chart`` show the results. ``ht-kernels bench`` and the pytest-benchmark suite in benchmarks/ share the cases.

One adapter: ``setting`` reads what is timed, ``single`` does it, ``stages`` times its stages, and ``work`` knows their
arithmetic and traffic. ``stream`` times live video. ``compare`` compares two files of results.
"""
