"""Quantizers against their closed forms, and what `compress` does to a model."""

from __future__ import annotations

import copy
import fnmatch
import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.freeze import freeze
from robustlab.compress.layers import Affine, CompressedConv2d, CompressedLayer
from robustlab.compress.observers import RangeObserver, affine_grid, weight_scale
from robustlab.compress.quantizers import ActivationQuantizer, WeightBinarizer, WeightQuantizer, affine_codes
from robustlab.core.errors import ArgumentError
from robustlab.models import build, info_of


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights that a test draws from the global generator are the same in every run, and the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def moved(model: nn.Module, size: int = 32) -> nn.Module:
    """Give the batch norms statistics that matter."""
    model.train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, 3, size, size, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
    return model.eval()


def images(count: int, seed: int = 0, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    return moved(build("robustlab:signs_resnet", {"classes": 5, "widths": [8, 16], "blocks": [1, 1]}))


@given(st.floats(-50, 50), st.floats(0, 100), st.integers(2, 8))
def test_affine_grid_covers_its_range_and_holds_zero(low: float, width: float, bits: int) -> None:
    scale, zero = affine_grid(low, low + width, bits)
    levels = 2**bits - 1
    assert 0 <= zero <= levels
    assert scale > 0
    smallest, largest = scale * (0 - zero), scale * (levels - zero)
    assert smallest <= min(low, 0) + 0.5001 * scale
    assert largest >= max(low + width, 0) - 0.5001 * scale


@settings(max_examples=60)
@given(st.integers(2, 8), st.integers(0, 2**31))
def test_activation_error_is_at_most_half_a_step_inside_the_range(bits: int, seed: int) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * 3
    quantizer = ActivationQuantizer(bits)
    observer = RangeObserver("minmax", bits)
    observer.observe(x)
    quantizer.set_grid(*observer.grid())
    scale, zero = float(quantizer.scale), int(quantizer.zero_point)
    inside = (x >= -zero * scale) & (x <= (2**bits - 1 - zero) * scale)
    error = (quantizer(x) - x).abs()
    assert float(error[inside].max()) <= 0.5001 * scale
    assert float(error.max()) <= 1.001 * scale  # the ends can lie outside by half a step, as zero is a level
    codes = affine_codes(x, quantizer.scale, int(quantizer.zero_point), bits)
    assert codes.min() >= 0 and codes.max() <= 2**bits - 1
    assert torch.equal(codes, codes.round())


def test_straight_through_gradients_are_as_stated() -> None:
    quantizer = ActivationQuantizer(2)
    quantizer.set_grid(1.0, 1)  # values -1, 0, 1, 2
    x = torch.tensor([-1.6, -1.4, -1.0, 0.3, 2.0, 2.4, 2.6, float("nan")], requires_grad=True)
    y = quantizer(x)
    assert torch.equal(y.detach(), torch.tensor([-1.0, -1.0, -1.0, 0.0, 2.0, 2.0, 2.0, 0.0]))
    y[:-1].sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[:-1], torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("bits", range(2, 9))
def test_weight_codes_are_symmetric_per_channel_and_mse_is_never_worse(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(6, 5, 3, 3, generator=generator) * torch.arange(6).reshape(6, 1, 1, 1)
    errors = {}
    for rule in ("minmax", "percentile", "mse"):
        quantizer = WeightQuantizer(bits, rule)
        codes, scale = quantizer.codes(weight)
        assert codes.abs().max() <= 2 ** (bits - 1) - 1
        assert torch.equal(scale, weight_scale(weight, bits, rule))
        errors[rule] = (quantizer(weight) - weight).square().flatten(1).sum(1)
        assert torch.equal(quantizer(weight)[0], torch.zeros(5, 3, 3))
    assert (errors["mse"] <= errors["minmax"] + 1e-9).all()


def test_mse_range_beats_minmax_with_outliers() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20_000, generator=generator)
    x[0] = 60.0
    errors = {}
    for rule in ("minmax", "mse", "percentile"):
        observer = RangeObserver(rule, 4)
        observer.observe(x)
        quantizer = ActivationQuantizer(4)
        quantizer.set_grid(*observer.grid())
        errors[rule] = float((quantizer(x) - x).square().mean())
    assert errors["mse"] < 0.7 * errors["minmax"]
    assert errors["percentile"] < 0.7 * errors["minmax"]


@pytest.mark.parametrize("rule", ["percentile", "mse"])
@pytest.mark.parametrize("width", [32, 56])
def test_a_range_is_judged_by_all_columns_of_a_feature_map(rule: str, width: int) -> None:
    """A stride that is a multiple of the width would only see the first, silent column."""
    x = torch.rand(64, 32, 32, width, generator=torch.Generator().manual_seed(0))  # a stride of exactly the width
    x[..., 0] = 0.01
    observer = RangeObserver(rule, 8)
    observer.observe(x)
    scale, zero = observer.grid()
    assert zero == 0
    assert 0.9 < scale * 255 < 1.01


def test_binary_scale_is_the_least_squares_one() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    codes, scale = WeightBinarizer().codes(weight)
    flat, signs = weight.flatten(1).double(), codes.flatten(1).double()
    best = (flat * signs).sum(1) / signs.square().sum(1)  # the normal equation of min |w - s sign(w)|^2
    assert torch.allclose(scale.double(), best, atol=1e-6)
    weight[0, 0, 0, 0] = 0.0
    assert WeightBinarizer().codes(weight)[0][0, 0, 0, 0] == 1


def test_folding_keeps_the_function_and_removes_every_norm() -> None:
    model = network()
    folded = copy.deepcopy(model)
    names = fold_batch_norms(folded, images(2))
    assert len(names) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(images(6, 1)), model(images(6, 1)), atol=1e-4)


class TwoReaders(nn.Module):
    """The convolution's output is read by a batch norm and by a sum: folding would change the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3)
        self.bn2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.bn2(self.second(self.bn(y) + 2 * y))
        logits: Tensor = self.head(z.mean(dim=(2, 3)))
        return logits


def test_a_norm_whose_input_has_another_reader_is_not_folded() -> None:
    model = moved(TwoReaders())
    folded = copy.deepcopy(model)
    assert fold_batch_norms(folded, images(2)) == ("bn2",)
    with torch.no_grad():
        assert torch.allclose(folded(images(4, 2)), model(images(4, 2)), atol=1e-4)


def test_compress_copies_and_sets_first_and_last_to_eight_bits() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    small = rl.compress(model, weights=4, activations=3, calibration=[images(4), images(4, 1)])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    layers = {n: m for n, m in small.named_modules() if isinstance(m, CompressedLayer)}
    bits = {n: (m.weight_bits, m.activation_bits) for n, m in layers.items()}
    assert bits.pop("stem") == bits.pop("head") == (8, 8)
    assert set(bits.values()) == {(4, 3)}
    assert info_of(small) is not None
    patterns = {"stages.0.*": (8, 2), "*.conv2": (2, 8)}
    small = rl.compress(model, weights=4, activations=4, calibration=images(4), layers=patterns, first_last_bits=None)
    for name, layer in small.named_modules():
        if isinstance(layer, CompressedConv2d):
            wanted = (4, 4)
            for pattern, chosen in patterns.items():
                wanted = chosen if fnmatch.fnmatch(name, pattern) else wanted
            assert (layer.weight_bits, layer.activation_bits) == wanted


def test_what_stays_float_is_listed() -> None:
    class Odd(nn.Conv2d):
        pass

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        Odd(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 28 * 28, 3),
    )
    small = rl.compress(model, weights=8, activations=8, calibration=images(4))
    info = info_of(small)
    assert info is not None
    assert info.left_float == ("1", "2")
    assert isinstance(small[0], CompressedLayer) and type(small[1]) is Odd


def test_eight_bits_are_close_to_float_and_more_bits_are_closer() -> None:
    model = network()
    x = images(32, 5)
    with torch.no_grad():
        reference = model(x)
        errors = [
            float((rl.compress(model, weights=b, activations=b, calibration=images(64))(x) - reference).square().mean())
            for b in (2, 4, 8)
        ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-3 * float(reference.square().mean())


def test_freezing_changes_predictions_by_rounding_only_and_stores_norms_as_affines() -> None:
    model = moved(build("robustlab:signs_binary", {"classes": 5, "stem": 8, "widths": [16], "steps": [2]}))
    small = rl.compress(model, weights=1, activations=1, algorithm="binary", calibration=images(8))
    frozen_model = freeze(small)
    with torch.no_grad():
        assert torch.allclose(frozen_model(images(4)), small(images(4)), atol=1e-3)
    assert sum(isinstance(m, Affine) for m in frozen_model.modules()) == 2  # one behind each binary convolution
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen_model.modules())


def test_affine_equals_the_batch_norm() -> None:
    norm = nn.BatchNorm2d(5).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.uniform_(-1, 1, generator=generator)
        norm.running_var.uniform_(0.1, 3, generator=generator)
        x = torch.randn(2, 5, 4, 4, generator=generator)
        assert torch.allclose(Affine.from_batch_norm(norm)(x), norm(x), atol=1e-5)


BAD: list[tuple[dict[str, object], str]] = [
    ({"weights": 0}, "weights"),
    ({"weights": 9}, "weights"),
    ({"activations": 2.5}, "activations"),
    ({"weights": 1}, "binary"),
    ({"weights": 4, "algorithm": "binary"}, "binary"),
    ({"algorithm": "magic"}, "algorithm"),
    ({"calibration": []}, "calibration"),
    ({"calibration": torch.empty(0, 3, 32, 32)}, "calibration"),
    ({"calibration": torch.full((2, 3, 32, 32), float("nan"))}, "calibration"),
    ({"calibration": torch.full((2, 3, 32, 32), 255.0)}, "calibration"),
    ({"calibration": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, "calibration"),
    ({"layers": {"nothing*": (4, 4)}}, "nothing"),
    ({"layers": {"stem": (4, 9)}}, "activations"),
    ({"keep_float": ["nothing"]}, "nothing"),
    ({"keep_float": ["*"]}, "keep_float"),
    ({"first_last_bits": 1}, "first_last_bits"),
]


@pytest.mark.parametrize(("change", "word"), BAD)
def test_bad_arguments_are_refused_by_name(change: dict[str, object], word: str) -> None:
    arguments: dict[str, object] = {"weights": 8, "activations": 8, "calibration": images(2), **change}
    with pytest.raises(ArgumentError, match=word):
        rl.compress(network(), **arguments)  # type: ignore[arg-type]


def test_a_weight_that_is_nan_is_refused() -> None:
    model = network()
    with torch.no_grad():
        model.get_submodule("stages.0.conv1").weight[0] = float("nan")  # type: ignore[index]
    with pytest.raises(ArgumentError, match=r"tensor stages\.0\.conv1\.weight of the model"):
        rl.compress(model, weights=8, activations=8, calibration=images(2))


class InPlaceBetween(nn.Module):
    """Convolution, ReLU that overwrites its output, batch norm: the norm gets the same object, not the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.bn(self.relu(self.conv(x))).mean(dim=(2, 3)))
        return logits


def test_a_norm_behind_an_in_place_activation_is_not_folded_even_on_black_images() -> None:
    model = moved(InPlaceBetween())
    assert fold_batch_norms(copy.deepcopy(model), torch.zeros(2, 3, 32, 32)) == ()
    small = rl.compress(model, weights=8, activations=8, calibration=torch.cat([torch.zeros(2, 3, 32, 32), images(8)]))
    x = images(8, 3)
    with torch.no_grad():
        assert (small(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()


class Statistics(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 16, 16)
        self.tokens = nn.Linear(12, 4)
        self.norm = norm
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, nn.BatchNorm2d):
            return self.head(self.norm(self.conv(x)).mean(dim=(2, 3))[:, :4])  # type: ignore[no-any-return]
        y = self.tokens(self.conv(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(y).mean(dim=1))  # type: ignore[no-any-return]


def with_statistics(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    generator = torch.Generator().manual_seed(3)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.uniform_(-1, 1, generator=generator)
    norm.running_var.uniform_(0.2, 3, generator=generator)
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(12, track_running_stats=False),
        with_statistics(nn.BatchNorm1d(4)),  # over the four tokens, which are as many as the outputs
    ],
)
def test_norms_that_cannot_be_folded_stay(norm: nn.Module) -> None:
    model = Statistics(norm).eval()
    small = rl.compress(model, weights=8, activations=8, calibration=images(8))
    assert isinstance(small.get_submodule("norm"), (nn.BatchNorm1d, nn.BatchNorm2d))
    with torch.no_grad():
        assert (small(images(4)) - model(images(4))).abs().max() < 0.1 * model(images(4)).abs().max()


def test_compressing_in_steps_keeps_what_is_done() -> None:
    model = network()
    first = rl.compress(model, weights=4, activations=4, calibration=images(4), keep_float=["stages.1.*"])
    second = rl.compress(first, weights=3, activations=3, calibration=images(4))
    info = info_of(second)
    assert info is not None
    assert info.left_float == ()
    bits = {n: m.weight_bits for n, m in second.named_modules() if isinstance(m, CompressedLayer)}
    assert bits.pop("stem") == bits.pop("head") == 8
    assert {b for n, b in bits.items() if n.startswith("stages.0")} == {4}
    assert {b for n, b in bits.items() if n.startswith("stages.1")} == {3}


class Mixed(nn.Module):
    """Weights that no convolution or linear module owns, and paddings by name."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 8, 3, padding="same")
        self.valid = nn.Conv2d(8, 8, 3, padding="valid")
        self.uneven = nn.Conv2d(8, 8, 4, padding="same")
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0)))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(self.uneven(self.valid(self.same(x))), self.kernel, stride=8)
        tokens = y.flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.attention(tokens, tokens, tokens)[0].mean(dim=1))
        return logits


def test_every_matrix_that_stays_float_is_listed_and_paddings_by_name_are_understood() -> None:
    model = Mixed().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's remark on 'same' with an even kernel
        small = rl.compress(model, weights=8, activations=8, calibration=images(4))
    info = info_of(small)
    assert info is not None
    assert set(info.left_float) == {"", "uneven", "attention", "attention.out_proj"}
    assert info.name == "Mixed-w8a8"
    with torch.no_grad():
        x = images(4, 2)
        assert torch.equal(rl.deploy(small)(x), freeze(small)(x))
        assert (small(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


class Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.log(self.conv(x)).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("algorithm", ["minmax", "percentile", "mse"])
def test_activations_that_are_not_finite_are_refused_by_layer(algorithm: str) -> None:
    with pytest.raises(ArgumentError, match="activations of layer head"):
        rl.compress(Logarithm(), weights=8, activations=8, calibration=images(4), algorithm=algorithm)


def test_images_that_the_model_does_not_take_are_refused() -> None:
    with pytest.raises(ArgumentError, match="3 channels"):
        rl.compress(network(), weights=8, activations=8, calibration=images(2)[:, :1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    with pytest.raises(ArgumentError, match="images the model takes"):
        rl.compress(model, weights=8, activations=8, calibration=images(2))


def test_a_detector_like_output_is_fine() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> dict[str, object]:
            logits = self.body(x)
            return {"scores": [logits, logits + 1], "count": 2}

    small = rl.compress(Two(), weights=8, activations=8, calibration=images(4))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in small.modules()) == 0
    assert len(small(images(2))["scores"]) == 2


def test_layers_with_hooks_stay_float_and_calibration_images_are_left_alone() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x.sub_(0.5))
            return logits

    model = Writing().eval()
    model.body.get_submodule("stages.0.conv1").register_forward_hook(lambda _m, _i, output: output * 2)
    calibration = images(4)
    small = rl.compress(model, weights=8, activations=8, calibration=calibration)
    assert torch.equal(calibration, images(4))
    info = info_of(small)
    assert info is not None
    assert info.left_float == ("body.stages.0.conv1",)
    with torch.no_grad():
        expected = model(images(4, 2))
        assert (small(images(4, 2)) - expected).abs().max() < 0.05 * expected.abs().max()
