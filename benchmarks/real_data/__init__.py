"""The study: training methods on real ultrasound, ``python -m benchmarks.real_data DATA --tower FILE --output DIR``.

Every method starts from the same pretrained tower and is trained by the same recipe; adapters start as the identity.
Validation chooses the epoch, and the test split is measured once. Finished runs are not repeated, and a run that was
stopped goes on, so a study can be continued.
"""
