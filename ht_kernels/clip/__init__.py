"""CLIP: towers, injection of adapters, HTCLIP, checkpoints."""
