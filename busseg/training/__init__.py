"""How the networks learn: losses, metrics, the recipe and the fit."""
