"""A trained model at work: predict, draw, export."""
