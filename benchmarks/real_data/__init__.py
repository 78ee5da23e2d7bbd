"""Methods of training compared on real ultrasound: ``python -m benchmarks.real_data DATA --output DIR``.

Every run starts from the weights that come with the package, with the backbone frozen. Validation chooses the epoch,
the test split is measured once. A run that is finished is not done again, so a stopped comparison goes on.
"""
