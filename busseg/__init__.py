"""Breast-ultrasound classification and lesion segmentation with one U-Net."""

__version__ = "0.1.0"
