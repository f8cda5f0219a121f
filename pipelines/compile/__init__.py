"""Compiles a base's UNet for any adapters: to ONNX, or on a GPU to a TensorRT engine."""
