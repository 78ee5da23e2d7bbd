"""The figures and pictures of a model card, ``python -m benchmarks.breast_card DATA CHECKPOINT --output DIR``.

One run over the validation and test splits of a data set gives the scores with intervals, the scores of groups of test
images, such as small lesions, and pictures of the Dice of every image, of the worst masks, and of confidence and Dice.
With ``--beside FILE``, a UNet is measured on the same images, and on the test images changed.
"""
