"""Inference: a trained model predicts files; results are drawn and written."""
