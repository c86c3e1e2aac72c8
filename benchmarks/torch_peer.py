"""The peer: the U-Net of segmentation_models_pytorch, with a classification head, on PyTorch.

Reference:
    P. Iakubovskii, "Segmentation Models Pytorch", https://github.com/qubvel-org/segmentation_models.pytorch
"""

import subprocess
from bisect import bisect_left
from contextlib import nullcontext
from functools import cache

from benchmarks.measuring import loop_over_files, noise

# Of each encoder: the modules that make its two finest levels, those that `frozen=2` freezes in busseg.
FINEST = {
    "mobilenet_v2": ("features.0", "features.1", "features.2", "features.3"),
    "efficientnet-b0": ("_conv_stem", "_bn0", "_blocks.0", "_blocks.1", "_blocks.2"),
    "tu-tf_efficientnet_lite0": ("model.conv_stem", "model.bn1", "model.blocks.0", "model.blocks.1"),
}
DECODER = (256, 128, 64, 32, 16)


def missing_peer(python):
    """Why the peer cannot be run by an interpreter, or None if it can."""
    done = subprocess.run(
        [str(python), "-c", "import segmentation_models_pytorch"], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"{done.stderr.strip().splitlines()[-1]} ({python})"


def peers(encoders, forward):
    """The configurations that a network of busseg is compared with: dict from name to settings of `build_step`.

    Args:
        encoders: Names of `FINEST`.
        forward: The network's multiply-adds of one image, in thousand millions; those of "equal work".
    """
    fast = {"channels_last": True, "bfloat16": True}
    found = {}
    for encoder in encoders:
        found[f"smp {encoder}"] = {"encoder": encoder}
        found[f"smp {encoder}, equal work"] = equal = {"encoder": encoder, "forward": forward}
        found[f"smp {encoder}, equal work, channels last"] = {**equal, "channels_last": True}
        found[f"smp {encoder}, equal work, bfloat16"] = {**equal, **fast}
        found[f"smp {encoder}, equal work, bfloat16, frozen"] = {**equal, **fast, "frozen": True}
    return found


def build_step(image_size, batch_size, encoder, forward=None, channels_last=False, bfloat16=False, frozen=False):
    """A worker's maker: a training step, with Dice and cross-entropy as losses and Adam.

    Args:
        image_size: Side of the image in pixels.
        batch_size: Images a step.
        encoder: One of `FINEST`.
        forward: Multiply-adds of one image, in thousand millions, to narrow the decoder to; None leaves it as it is.
        channels_last: Whether the feature maps lie in memory as `(batch, height, width, channels)`.
        bfloat16: Whether the layers compute in bfloat16 where PyTorch holds that safe.
        frozen: Whether the encoder's two finest levels keep their weights and statistics.
    """
    import torch
    from segmentation_models_pytorch.losses import DiceLoss

    model = build(encoder, image_size, forward)
    facts = describe(model, image_size)
    model.train()
    for name in FINEST[encoder] if frozen else ():
        model.encoder.get_submodule(name).eval().requires_grad_(False)
    image, mask, label = (torch.from_numpy(values) for values in noise(image_size, batch_size))
    image, mask = image[:, None] / 255, mask[:, None]
    if channels_last:
        model, image = model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
    dice, crossentropy = DiceLoss("binary"), torch.nn.CrossEntropyLoss()
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moving, lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            logits, scores = model(image)
            loss = dice(logits, mask) + crossentropy(scores, label)
        loss.backward()
        optimizer.step()

    for _ in range(2):
        step()
    return facts, step


def build_prediction(image_size, batch_size, encoder, forward=None, channels_last=False):
    """A worker's maker: a prediction of one batch; see `build_step`."""
    import torch

    model = build(encoder, image_size, forward).eval()
    image = torch.from_numpy(noise(image_size, batch_size)[0])[:, None] / 255
    if channels_last:
        model, image = model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def predict():
        logits, scores = model(image)
        return logits.sigmoid(), scores.softmax(1)

    predict()
    return describe(model, image_size), predict


def predict_files(inputs, out, size, encoder, forward, helped=False):
    """A worker's maker: the loop of many scripts, one image and its mirror image at a time; see `build_step`.

    Args:
        helped: Whether it computes in bfloat16 where PyTorch holds that safe, and is compiled if PyTorch can here.
    """
    import torch

    model = build(encoder, size, forward).eval().to(memory_format=torch.channels_last)
    facts = describe(model, size)
    usual = model

    @torch.inference_mode()
    def lesion_of(square):
        image = torch.from_numpy(square)[None, None] / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=helped):
            logits, mirrored = model(torch.cat([image, image.flip(3)]))[0]
        return ((logits + mirrored.flip(2)) / 2).float().sigmoid()[0].numpy()

    if helped:
        model = torch.compile(usual)
        try:
            lesion_of(noise(size, 1)[0][0])  # compiles
        except Exception:  # PyTorch's errors share no base class; without a compiler of C++ or Python's headers
            model = usual
        facts["compiled"] = model is not usual
    return facts, loop_over_files(inputs, out, size, lesion_of)


def build(encoder, image_size, forward=None):
    """The U-Net, with new weights; see `build_step`."""
    import segmentation_models_pytorch as smp
    import torch

    def unet(scale):
        channels = [max(8, round(scale * filters / 8) * 8) for filters in DECODER]
        return smp.Unet(
            encoder, encoder_weights=None, in_channels=1, classes=1, decoder_channels=channels,
            aux_params={"classes": 3},
        )  # fmt: skip

    if forward is None:
        return unet(1)
    # Multiples of 8, which processors like, so the work comes near, not equal.
    scales = [step / 32 for step in range(1, 33)]

    @cache
    def work(scale):
        with torch.device("meta"):  # shapes alone
            return count_multiply_adds(unet(scale), image_size) / 1e9

    above = bisect_left(scales, forward, hi=len(scales) - 1, key=work)
    return unet(min(scales[max(0, above - 1) : above + 1], key=lambda scale: abs(work(scale) - forward)))


def describe(model, image_size):
    """The columns of a model in the tables, as `benchmarks.models` counts them for Keras."""
    import torch

    parameters = sum(parameter.numel() for parameter in model.parameters())
    forward = count_multiply_adds(model, image_size)
    return {"engine": f"torch {torch.__version__}", "parameters, M": parameters / 1e6, "forward, G": forward / 1e9}


def count_multiply_adds(model, image_size):
    """Multiply-adds of one forward pass of one image, counted in convolutions and dense layers as they are called.

    The model is left as it is for predictions, not for training.
    """
    import torch

    total = 0

    def count(layer, _, output):
        nonlocal total
        total += output.numel() * layer.weight[0].numel()  # the weights of one output channel

    hooks = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 1, image_size, image_size))
    for hook in hooks:
        hook.remove()
    return total
