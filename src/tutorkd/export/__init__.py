"""A checkpoint as ONNX files for devices, checked against PyTorch before they are handed out."""
