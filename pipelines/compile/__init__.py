"""A base's UNet compiled ahead, for any adapters: to ONNX, or on a GPU to a TensorRT engine."""
