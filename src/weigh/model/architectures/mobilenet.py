"""MobileNet V5 (300M), the eye of Gemma 3n: of fixed shape, since its config only names it.

Source: timm 1.0.31 `mobilenetv5_300m_enc`, 294,126,912 parameters (Apache-2.0); names as in llama.cpp's
`mmproj` files (`conversion/gemma.py`, MIT).
"""

from __future__ import annotations

from weigh.model.architectures.beside import Beside

# Stages of inverted bottlenecks: (input, output, inner width of the first, of the rest, kernels that start them)
_SECOND = (128, 256, 768, 1024, (3, 5, 3, 5, 3))
_THIRD = (256, 640, 1536, 2560, (5,) * 8)
_FOURTH = (640, 1280, 3840, 2560, (5,))


def mobilenet_v5(b: Beside) -> None:
    """Four stages, and a fusion of the last two."""
    b.exact("v.conv_stem.conv.weight", 3, 3, 3, 64)
    b.exact("v.conv_stem.conv.bias", 64)
    b.exact("v.conv_stem.bn.weight", 64)
    for block, (inputs, inner) in enumerate(((64, 256), (128, 512), (128, 512))):
        name = f"v.blk.0.{block}"
        _convolution(b, f"{name}.conv_exp", f"{name}.bn1", 3, inputs, inner)
        _convolution(b, f"{name}.conv_pwl", f"{name}.bn2", 1, inner, 128)
    for stage, shape in enumerate((_SECOND, _THIRD, _FOURTH), start=1):
        _bottlenecks(b, stage, *shape)
    _feed_forward(b, "v.blk.2.8", 640, 640)
    for block in range(9, 37, 2):
        _attention(b, f"v.blk.2.{block}", 640, 768, 64, shrunk=True)
        _feed_forward(b, f"v.blk.2.{block + 1}", 640, 1280)
    for block in range(1, 39, 2):
        _attention(b, f"v.blk.3.{block}", 1280, 1536, 96, shrunk=False)
        _feed_forward(b, f"v.blk.3.{block + 1}", 1280, 2560)
    _convolution(b, "v.msfa.ffn.pw_exp.conv", "v.msfa.ffn.pw_exp.bn", 1, 1920, 3840)
    _convolution(b, "v.msfa.ffn.pw_proj.conv", "v.msfa.ffn.pw_proj.bn", 1, 3840, 2048)
    b.norm("v.msfa.norm", 2048, bias=False)


def _convolution(b: Beside, name: str, norm: str, kernel: int, inputs: int, outputs: int) -> None:
    b.matrix(name, kernel, kernel, inputs, outputs)
    b.norm(norm, outputs, bias=False)


def _bottlenecks(
    b: Beside, stage: int, inputs: int, outputs: int, first: int, rest: int, kernels: tuple[int, ...]
) -> None:
    for block, kernel in enumerate(kernels):
        name = f"v.blk.{stage}.{block}"
        width, inner = (inputs, first) if block == 0 else (outputs, rest)
        _convolution(b, f"{name}.dw_start.conv", f"{name}.dw_start.bn", kernel, 1, width)
        if block == 0:
            _convolution(b, f"{name}.dw_mid.conv", f"{name}.dw_mid.bn", 5, 1, inner)
        _convolution(b, f"{name}.pw_exp.conv", f"{name}.pw_exp.bn", 1, width, inner)
        _convolution(b, f"{name}.pw_proj.conv", f"{name}.pw_proj.bn", 1, inner, outputs)
        b.exact(f"{name}.layer_scale.gamma", outputs)


def _feed_forward(b: Beside, name: str, width: int, inner: int) -> None:
    _convolution(b, f"{name}.pw_exp.conv", f"{name}.pw_exp.bn", 1, width, inner)
    _convolution(b, f"{name}.pw_proj.conv", f"{name}.pw_proj.bn", 1, inner, width)
    b.exact(f"{name}.layer_scale.gamma", width)


def _attention(b: Beside, name: str, width: int, query: int, head: int, *, shrunk: bool) -> None:
    """Attention with one key-value head; `shrunk` when keys and values are made of fewer places."""
    b.norm(f"{name}.norm", width, bias=False)
    b.matrix(f"{name}.attn.query.proj", 1, 1, width, query)
    for role in ("key", "value"):
        b.matrix(f"{name}.attn.{role}.proj", 1, 1, width, head)
        if shrunk:
            _convolution(b, f"{name}.attn.{role}.down_conv", f"{name}.attn.{role}.norm", 3, 1, width)
    b.matrix(f"{name}.attn.output.proj", 1, 1, query, width)
    b.exact(f"{name}.layer_scale.gamma", width)
