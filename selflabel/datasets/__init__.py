"""Samples and batches for training, as tensors with channels first; and the photographs of the demo."""
