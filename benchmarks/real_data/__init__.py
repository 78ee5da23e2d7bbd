"""A comparison of training methods on real ultrasound images: ``python -m benchmarks.real_data DATA --output DIR``.

Every run starts from the weights that come with the package, with the tower frozen. Validation chooses the epoch, and
the test split is measured once. Finished runs are not repeated, so a comparison that was stopped can be continued.
"""
