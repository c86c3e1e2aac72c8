"""Augmentation: random changes of an image together with its mask. The only file that imports albumentations."""

import os

# Otherwise albumentations checks the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2


def no_augmentation() -> "A.Compose":
    """Image and mask unchanged."""
    return A.Compose([])


def card_augmentation() -> "A.Compose":
    """One of five at random: the image unchanged, or its contrast, brightness, orientation or sharpness changed.

    The changes are those of the model card: contrast, brightness, left-right flip and Gaussian blur. An ultrasound
    image must not be turned upside down, because depth and shadows run downwards.
    """
    return A.Compose(
        [
            A.OneOf(
                [
                    A.NoOp(p=1),
                    A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.3, p=1),
                    A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0, p=1),
                    A.HorizontalFlip(p=1),
                    A.GaussianBlur(sigma_limit=(0.5, 1.5), blur_limit=0, p=1),
                ],
                p=1,
            )
        ]
    )


def strong_augmentation() -> "A.Compose":
    """Many changes at once, for small datasets and for unseen scanners, gains and probes.

    Geometry: flip, shift, zoom, rotation by up to 15 degrees, elastic deformation. Grey values: brightness, contrast,
    gamma. Sharpness: blur. Noise: multiplicative speckle. Dropout hides a few rectangles of the image, not of the mask,
    so that a model must find a lesion by its visible part.
    """
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.8, 1.25), translate_percent=(-0.1, 0.1), rotate=(-15, 15), shear=(-5, 5), p=0.7),
            A.ElasticTransform(alpha=40, sigma=6, p=0.2),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.5),
            A.RandomGamma(gamma_limit=(70, 140), p=0.4),
            A.GaussianBlur(sigma_limit=(0.5, 1.5), blur_limit=0, p=0.2),
            A.MultiplicativeNoise(multiplier=(0.8, 1.2), elementwise=True, p=0.3),
            A.CoarseDropout(
                num_holes_range=(1, 4), hole_height_range=(0.05, 0.15), hole_width_range=(0.05, 0.15), p=0.2
            ),
        ]
    )


def scanner_augmentation() -> "A.Compose":
    """Differences between hospitals and scanners, for a model that must read images of other hospitals.

    Geometry, as in `strong_augmentation` but stronger: other depths and crops, at 2/3 to 3/2 of the size. Grey values:
    gain, dynamic range (contrast, gamma, a tone curve, local equalisation) and time-gain compensation, which brightens
    or darkens the image towards one side. Sharpness: blur, sharpening, a coarser grid, JPEG. Noise: multiplicative
    speckle, additive receiver noise. Dropout hides a few rectangles.
    """
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(0.67, 1.5),
                keep_ratio=True,
                translate_percent=(-0.15, 0.15),
                rotate=(-20, 20),
                shear=(-8, 8),
                p=0.9,
            ),
            A.ElasticTransform(alpha=40, sigma=6, p=0.2),
            A.OneOf(
                [
                    A.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0.4, p=1),
                    A.RandomGamma(gamma_limit=(50, 200), p=1),
                    A.RandomToneCurve(scale=0.25, p=0.5),
                    A.CLAHE(clip_limit=(1, 3), p=0.25),
                ],
                p=0.8,
            ),
            A.Illumination(intensity_range=(0.05, 0.2), p=0.3),
            A.OneOf(
                [
                    A.GaussianBlur(sigma_limit=(0.5, 1.5), blur_limit=0, p=1),
                    A.Sharpen(alpha=(0.2, 0.5), p=0.5),
                    A.Downscale(
                        scale_range=(0.4, 0.8),
                        interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
                        p=0.5,
                    ),
                    A.ImageCompression(quality_range=(25, 80), p=0.5),
                ],
                p=0.4,
            ),
            A.OneOf(
                [
                    A.MultiplicativeNoise(multiplier=(0.75, 1.25), elementwise=True, p=1),
                    A.GaussNoise(std_range=(0.01, 0.05), p=0.5),
                ],
                p=0.4,
            ),
            A.CoarseDropout(
                num_holes_range=(1, 4), hole_height_range=(0.05, 0.15), hole_width_range=(0.05, 0.15), p=0.2
            ),
        ]
    )


def stain_augmentation() -> "A.Compose":
    """Differences between laboratories and slides, for histology images.

    Geometry: any flip and rotation by right angles, because a slide has no top. Colour: other amounts of haematoxylin
    and eosin (by colour deconvolution of Ruifrok and Johnston), hue, saturation, brightness and contrast. Sharpness:
    blur.
    """
    return A.Compose(
        [
            A.SquareSymmetry(p=1),
            A.HEStain(
                method="preset",
                preset="ruifrok",
                intensity_scale_range=(0.7, 1.3),
                intensity_shift_range=(-0.1, 0.1),
                augment_background=True,
                p=0.5,
            ),
            A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.2, p=0.5),
            A.GaussianBlur(sigma_limit=(0.5, 1.5), blur_limit=0, p=0.2),
        ]
    )


AUGMENTATIONS = {
    "none": no_augmentation,
    "card": card_augmentation,
    "strong": strong_augmentation,
    "scanner": scanner_augmentation,
    "stain": stain_augmentation,
}
