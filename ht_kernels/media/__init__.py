"""Files with pictures: what a viewer shows of an image, a DICOM clip or a video, as frames of 8 bits.

Training, evaluation, export and streaming all read by this package, so they see the same pixels.
"""
