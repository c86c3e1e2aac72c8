"""Training: recipe, batches, losses, metrics, fit, calibration."""
