"""A peer for models in ONNX: PyTorch, called eagerly, op by op (its convolutions and products are
oneDNN's).

``TorchModel(path)`` runs a model over float32 tensors, ``TorchModel(description, device)`` one
without its file (model_description.py). It knows the ops of feed-forward image
networks; another op is a UsageError that names it. Weights are read once; what depends on constants
alone is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from netloom.benchmarks.model_description import Description, described
from netloom.errors import UsageError

Tensor: TypeAlias = Any
Attributes: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Attributes, Sequence[Tensor]], Tensor]


class TorchModel:
    """A model ready to run: a dict of arrays in, a dict of arrays out."""

    def __init__(self, source: str | Description, device: str = "cpu") -> None:
        model = _read(source) if isinstance(source, str) else source
        self.outputs = list(model.outputs)
        self.known = {
            name: _placed(torch.from_numpy(array), device) for name, array in model.tensors.items()
        }
        self.known[""] = None
        self.steps: list[tuple[Rule, Attributes, list[str], str]] = []
        for node in model.steps:
            if node.op not in RULES:
                raise UsageError(
                    f"the torch contender does not know the op {node.op}.",
                    hint="Leave torch out of --against.",
                )
            rule, inputs = RULES[node.op], list(node.inputs)
            if all(name in self.known for name in inputs):
                made = rule(node.attributes, [self.known[name] for name in inputs])
                self.known[node.output] = _placed(made, device)
            else:
                self.steps.append((rule, node.attributes, inputs, node.output))

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for tensors by name."""
        values = {**self.known, **feeds}
        for rule, attributes, inputs, output in self.steps:
            values[output] = rule(attributes, [values[name] for name in inputs])
        return {name: values[name] for name in self.outputs}


def _read(path: str) -> Description:
    import onnx

    return described(onnx.load(path))


def _placed(tensor: Tensor, device: str) -> Tensor:
    """On the device, if it is data: shapes and indices are read by the host."""
    return tensor.to(device) if tensor.is_floating_point() else tensor


def _padded(attributes: Attributes, x: Tensor, value: float = 0.0) -> Tensor:
    """x with ONNX's pads around its spatial axes."""
    rank = x.dim() - 2
    pads = list(attributes.get("pads", [0] * 2 * rank))
    if not any(pads):
        return x
    pairs = [extent for axis in reversed(range(rank)) for extent in (pads[axis], pads[axis + rank])]
    return F.pad(x, pairs, value=value)


def _conv(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x, w = inputs[:2]
    pads = list(attributes.get("pads", [0] * 2 * (x.dim() - 2)))
    rank = len(pads) // 2
    is_even = pads[:rank] == pads[rank:]
    call = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return call(
        x if is_even else _padded(attributes, x), w, inputs[2] if len(inputs) > 2 else None,
        tuple(attributes.get("strides", [1] * rank)),
        tuple(pads[:rank]) if is_even else 0, tuple(attributes.get("dilations", [1] * rank)),
        attributes.get("group", 1),
    )  # fmt: skip


def _gemm(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    a, w = inputs[:2]
    a = a.t() if attributes.get("transA") else a
    w = w.t() if attributes.get("transB") else w
    product = attributes.get("alpha", 1.0) * (a @ w) if attributes.get("alpha", 1.0) != 1 else None
    if product is None and len(inputs) > 2 and attributes.get("beta", 1.0) == 1:
        return torch.addmm(inputs[2], a, w)
    product = a @ w if product is None else product
    return product + attributes.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else product


def _max_pool(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x = _padded(attributes, inputs[0], float("-inf"))
    call = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
    return call(x, *_window(attributes), ceil_mode=bool(attributes.get("ceil_mode", 0)))


def _average_pool(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    """Zeros of the padding count only with count_include_pad: else sums are divided by how many
    were there.
    """
    x = inputs[0]
    call = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.dim() - 3]
    ceil = bool(attributes.get("ceil_mode", 0))
    mean = call(_padded(attributes, x), *_window(attributes), ceil_mode=ceil)
    if attributes.get("count_include_pad") or not any(attributes.get("pads", ())):
        return mean
    return mean / call(
        _padded(attributes, torch.ones_like(x)), *_window(attributes), ceil_mode=ceil
    )


def _window(attributes: Attributes) -> tuple[list[int], list[int]]:
    kernel = list(attributes["kernel_shape"])
    return kernel, list(attributes.get("strides", [1] * len(kernel)))


def _reshape(_attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    """An extent of 0 is that of the input."""
    shape = [
        inputs[0].shape[axis] if extent == 0 else extent
        for axis, extent in enumerate(inputs[1].tolist())
    ]
    return inputs[0].reshape(shape)


def _axes(attributes: Attributes, inputs: Sequence[Tensor]) -> list[int]:
    return list(attributes["axes"]) if "axes" in attributes else inputs[1].tolist()


def _mean(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].mean(_axes(attributes, inputs), keepdim=bool(attributes.get("keepdims", 1)))


def _unsqueezed(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x = inputs[0]
    for axis in sorted(_axes(attributes, inputs)):
        x = x.unsqueeze(axis)
    return x


def _softmax(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    """Over the last axis, as every model here does it."""
    if attributes.get("axis", -1) not in (-1, inputs[0].dim() - 1):
        raise UsageError(
            "the torch contender knows Softmax over the last axis only.",
            hint="Leave torch out of --against.",
        )
    return F.softmax(inputs[0], dim=-1)


def _batch_norm(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x, scale, shift, mean, variance = inputs[:5]
    return F.batch_norm(x, mean, variance, scale, shift, eps=attributes.get("epsilon", 1e-5))


def _lrn(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    return F.local_response_norm(inputs[0], attributes["size"], attributes.get("alpha", 1e-4),
                                 attributes.get("beta", 0.75),
                                 attributes.get("bias", 1.0))  # fmt: skip


def _constant(attributes: Attributes, _inputs: Sequence[Tensor]) -> Tensor:
    return torch.from_numpy(attributes["value"].copy())


def _filled(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    value = attributes["value"] if "value" in attributes else torch.zeros(1).numpy()
    return torch.from_numpy(value).expand(inputs[0].tolist()).contiguous()


RULES: dict[str, Rule] = {
    "Add": lambda _, i: i[0] + i[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Concat": lambda a, i: torch.cat(list(i), a["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "Div": lambda _, i: i[0] / i[1],
    "Dropout": lambda _, i: i[0],
    "Flatten": lambda a, i: (
        i[0].flatten(a.get("axis", 1)) if a.get("axis", 1) == 1 else i[0].reshape(1, -1)
    ),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, i: i[0].mean(tuple(range(2, i[0].dim())), keepdim=True),
    "Identity": lambda _, i: i[0],
    "LRN": _lrn,
    "MatMul": lambda _, i: i[0] @ i[1],
    "MaxPool": _max_pool,
    "Mul": lambda _, i: i[0] * i[1],
    "Relu": lambda _, i: F.relu(i[0]),
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Sigmoid": lambda _, i: torch.sigmoid(i[0]),
    "Softmax": _softmax,
    "Sub": lambda _, i: i[0] - i[1],
    "Sum": lambda _, i: sum(i[1:], i[0]),
    "Tanh": lambda _, i: torch.tanh(i[0]),
    "Transpose": lambda a, i: i[0].permute(*a["perm"]),
    "Unsqueeze": _unsqueezed,
}
