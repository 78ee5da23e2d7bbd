"""A machine with a GPU and little else, as the run book in CONTRIBUTING.md takes it."""

ABSENT = (
    "open_clip",
    "matplotlib",
    "scipy",
    "psutil",
    "onnx",
    "onnxruntime",
    "openvino",
    "av",
    "pydicom",
    "highdicom",
    "monai",
    "peft",
    "accelerate",
    "rich",
)
"""Packages of the extras that a bare machine with a GPU need not have."""
