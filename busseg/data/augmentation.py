"""Random changes of image and mask together. The only file that imports albumentations."""

import os

# albumentations asks the network for a newer version when it is imported, unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2


def no_augmentation():
    """The image and the mask as they are."""
    return A.Compose([])


def card_augmentation():
    """One of five at random: the image untouched, or its contrast, brightness, orientation or sharpness changed.

    The changes are those of the model card: contrast, brightness, left-right flip and Gaussian blur. A scan may not
    be turned upside down: depth runs downwards, and shadows with it.
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


def strong_augmentation():
    """Many changes at once, for small datasets and for scanners, gains and probes that were not seen.

    Geometry: flip, shift, zoom, turn by up to 15 degrees, elastic deformation. Grey values: brightness, contrast,
    gamma. Sharpness: blur. Noise: speckle, which multiplies. Dropout hides a few rectangles from the image, not from
    the mask, so that the rest of a lesion must do.
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


def scanner_augmentation():
    """What differs between hospitals, for a model that is to read the scans of others.

    Geometry, as in `strong_augmentation` but further: other depths and crops, up to half as large again or two thirds.
    Grey values: another gain, dynamic range (contrast, gamma, any tone curve, local equalisation) and compensation of
    depth, which brightens or darkens the image towards one side. Sharpness: blur, sharpening, a coarser grid, JPEG.
    Noise: speckle, and the receiver's, which adds. Dropout hides a few rectangles.
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


def stain_augmentation():
    """What differs between laboratories and slides of tissue, for images in colour.

    Geometry: any flip and right-angle turn, for tissue has no way up. Colour: other amounts of haematoxylin and eosin
    (the image taken apart into its stains, as by Ruifrok and Johnston), hue, saturation, brightness and contrast.
    Sharpness: blur.
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
