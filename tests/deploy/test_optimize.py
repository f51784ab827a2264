"""`optimize`: what it fuses, when it steps aside, and that nothing else about a model changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.freeze import FrozenLayer, LayerScheme, freeze
from robustlab.compress.layers import Affine
from robustlab.core import ArgumentError
from robustlab.deploy import (
    OptimizedModel,
    PackedLayer,
    StraightThrough,
    fingerprint,
    layer_costs,
    optimize,
    read_model_file,
    scheme,
    set_surrogate,
    simulated_twin,
    stored_bytes,
)
from robustlab.deploy.graph.plan import Plan, ProgramCall
from robustlab.deploy.graph.thresholds import threshold
from robustlab.kernels import ConvGeometry, available, use_backend
from robustlab.kernels.program import Add, Clamp, Conv, Mul, Prelu, Program, Relu, Scale, Step, StoreBelow, Sub
from robustlab.models import info_of


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(count: int = 2, size: int = 8, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def binary(inputs: int, outputs: int, stride: int = 1) -> PackedLayer:
    codes = torch.where(torch.rand(outputs, inputs, 3, 3) < 0.5, -1, 1).to(torch.int8)
    layer = LayerScheme(1, None, ConvGeometry((stride, stride), (1, 1)))
    return PackedLayer.from_frozen(FrozenLayer(codes, torch.rand(outputs) * 0.1, torch.randn(outputs) * 0.1, layer))


class Net(nn.Module):
    """Two binary convolutions with `between` as what happens in between."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first, self.second = binary(3, 16), binary(16, 8)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


def same(model: nn.Module, x: Tensor | None = None) -> OptimizedModel:
    """Check that the optimized model gives what the model gives, on every backend."""
    model = model.eval().requires_grad_(False)
    x = images() if x is None else x
    optimized = optimize(model)
    for name in available():
        with use_backend(name):
            assert torch.equal(optimized(x), model(x)), name
    return optimized


def programs(optimized: OptimizedModel) -> list[Program]:
    (plan,) = optimized._plans.values()
    assert isinstance(plan, Plan)
    return [step.function._program for step in plan._steps if isinstance(step.function, ProgramCall)]


def steps_of(optimized: OptimizedModel) -> list[list[type]]:
    nodes = [node for program in programs(optimized) for node in program.nodes]
    return [[type(step) for step in node.steps] for node in nodes if isinstance(node, Conv)]


def test_the_sign_of_a_chain_is_a_comparison_of_integers() -> None:
    steps = nn.Sequential(Affine(torch.randn(16), torch.randn(16)), nn.Hardtanh())
    assert steps_of(same(Net(steps)))[0] == [StoreBelow]


def test_a_negative_slope_is_not_monotone_and_stays_in_float() -> None:
    slope = nn.PReLU(16)
    slope.weight.data.fill_(-0.5)
    assert StoreBelow not in steps_of(same(Net(slope)))[0]


@pytest.mark.parametrize("constant", [float("nan"), float("inf"), -float("inf")])
def test_constants_that_are_not_finite_are_compared_as_floats(constant: float) -> None:
    norm = Affine(torch.ones(16), torch.full((16,), constant))
    assert StoreBelow not in steps_of(same(Net(norm)))[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([4, 144, 2304, 70000]))
def test_thresholds_equal_the_float_function_for_every_accumulator(seed: int, bound: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def vector(spread: float) -> Tensor:
        values = torch.randn(33, generator=g) * spread
        values[torch.rand(33, generator=g) < 0.1] = 0
        return values

    slopes = torch.rand(33, generator=g)
    # Shifts that put the change of sign at or near a whole accumulator, where a rounding decides.
    scale = vector(0.01)
    at = torch.randint(-bound, bound + 1, (33,), generator=g)
    steps: list[Step] = [Scale(scale), Sub(at.float() * scale), Prelu(slopes), Mul(vector(1)), Add(vector(1e-3))]
    steps += [Clamp(-2.0, 2.0)] if seed % 2 else [Relu(), Add(vector(0.1))]
    found = threshold(steps, 33, bound)
    acc = torch.arange(-bound, bound + 1, dtype=torch.int32).reshape(-1, 1).expand(-1, 33)
    v = (acc.float() * steps[0].a - steps[1].a).clone()  # type: ignore[attr-defined]
    v = torch.where(v > 0, v, slopes * v) * steps[3].a + steps[4].a  # type: ignore[attr-defined]
    v = v.clamp(-2, 2) if seed % 2 else v.relu() + steps[6].a  # type: ignore[attr-defined]
    assert torch.equal((acc < found.threshold) ^ found.flip, v < 0)


def test_special_inputs_give_the_same_bits() -> None:
    x = images(3)
    for position, value in enumerate((float("nan"), float("inf"), -float("inf"), -0.0, 0.0)):
        x[:, :, position, position] = value
    same(Net(nn.Hardtanh()), x)
    same(nn.Sequential(nn.MaxPool2d(3, 1, 1), binary(3, 8), nn.ReLU()), x)
    model = rl.load("robustlab:signs_w4a4")
    broken = torch.rand(2, 3, 64, 64)
    broken[0, 0] = float("nan")
    with torch.no_grad():
        assert torch.equal(optimize(model)(broken), model(broken))


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x * 2


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape[0], 1, 1, 1)


class NoiseOnce(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(1)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("part", [Stateful, Branch, NoiseOnce])
def test_what_cannot_be_traced_is_called_as_a_whole(part: type[nn.Module]) -> None:
    model = Net(part()).eval()
    optimized = optimize(model, (3, 8, 8))
    report = optimized.report()
    assert len(report.segments) == 2
    assert [name for name, _ in report.in_torch] == ["between"]
    assert report.in_torch[0][1].startswith("called as a whole")
    torch.manual_seed(3)
    expected = model(images())
    torch.manual_seed(3)
    assert torch.equal(optimized(images()), expected)
    if part is Stateful:
        assert isinstance(model.between.seen, Tensor), "the forward's own assignments still happen"


def test_a_model_that_cannot_be_traced_at_all_runs_unoptimized_and_says_why() -> None:
    class Untraceable(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) if float(x.sum()) > 0 else self.first(x)

    model = Untraceable(nn.Identity()).eval()
    optimized = same(model)
    reason = optimized.report().reason
    assert reason is not None
    assert "as a whole" in reason
    assert str(optimized.report()).startswith("not optimized")
    torch.manual_seed(1)
    noisy = Net(Noisy()).eval()
    assert optimize(noisy, (3, 8, 8)).report().reason is None


class InPlace(nn.Module):
    """Reads a value after it was changed in place, in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second, self.way = binary(3, 3), binary(3, 3), way

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.way == "alias":
            z = y
            y += 1
            return self.second(y) + z
        if self.way == "input":
            x += 1
            return self.first(x)
        if self.way == "module":
            z = F.relu(y, inplace=True)
            return self.second(z) + y
        if self.way == "before":
            z = self.second(y)
            return torch.sin_(y) + z
        y += x
        return self.second(y.relu_())


@pytest.mark.parametrize("way", ["alias", "input", "module", "before", "harmless"])
def test_in_place_operations_keep_their_meaning(way: str) -> None:
    model = InPlace(way).eval()
    x, y = images(), images()
    optimized = optimize(model)
    assert torch.equal(optimized(x), model(y))
    assert torch.equal(x, y), "what the model writes into its input is written"
    assert (optimized.report().reason is None) == (way in ("harmless", "before"))


class Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("part", [Dropped, nn.Dropout])
def test_a_part_in_training_mode_stays_random(part: type[nn.Module]) -> None:
    model = Net(part()).eval()
    model.between.train()
    optimized = optimize(model, (3, 8, 8))
    outputs = []
    for module in (model, optimized):
        torch.manual_seed(1)
        outputs.append(module(images()))
    assert torch.equal(*outputs)
    assert len(optimized.report().in_torch) == 1


def test_hooks_still_run() -> None:
    model = Net(nn.Sequential(nn.ReLU(), nn.Hardtanh())).eval()
    calls: list[str] = []
    model.between.register_forward_hook(lambda *_: calls.append("container"))
    model.second.register_forward_pre_hook(lambda *_: calls.append("layer"))
    optimized = optimize(model, (3, 8, 8))
    calls.clear()
    assert torch.equal(optimized(images()), model(images()))
    assert calls == ["container", "layer"] * 2


def test_gradients_are_those_of_the_original_with_any_surrogate() -> None:
    model = rl.load("robustlab:signs_w1a1")
    optimized = optimize(model, (3, 64, 64))
    for surrogate in (StraightThrough(), StraightThrough(sign="identity")):
        set_surrogate(optimized, surrogate)
        gradients = []
        for module in (model, optimized):
            leaf = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
            module(leaf).square().sum().backward()
            gradients.append(leaf.grad)
        assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]
    model.requires_grad_(True)
    assert optimized(torch.rand(1, 3, 64, 64)).requires_grad, "parameters that want gradients get them"
    model.requires_grad_(False)
    labels = model(torch.rand(4, 3, 64, 64)).argmax(1)
    attacked = [rl.attacks.PGD(rl.Linf(8 / 255), steps=3)(m, images(4, 64), labels) for m in (model, optimized)]
    assert torch.equal(attacked[0], attacked[1])


def test_everything_else_about_the_model_stays(tmp_path: Path) -> None:
    model = rl.load("robustlab:signs_w4a4")
    optimized = rl.optimize(model, torch.rand(1, 3, 64, 64))
    assert optimized.original is model
    assert optimize(optimized) is optimized
    assert info_of(optimized) is info_of(model)
    assert fingerprint(optimized) == fingerprint(model)
    assert stored_bytes(optimized) == stored_bytes(model)
    assert scheme(optimized) == scheme(model)
    assert layer_costs(optimized, images(1, 64)) == layer_costs(model, images(1, 64))
    assert optimized.state_dict().keys() == model.state_dict().keys()
    files = [read_model_file(rl.save(m, tmp_path / name)) for m, name in ((model, "a"), (optimized, "b"))]
    assert files[0].metadata == files[1].metadata
    assert all(torch.equal(files[0].tensors[name], files[1].tensors[name]) for name in files[0].tensors)
    twin = simulated_twin(optimized)
    assert twin is not None
    assert torch.equal(twin(images(2, 64)), optimized(images(2, 64)))
    copied = copy.deepcopy(optimized)
    assert torch.equal(copied(images(2, 64)), optimized(images(2, 64)))
    assert "program 1" in repr(optimized)


def test_weights_are_shared_with_the_original() -> None:
    optimized = optimize(rl.load("robustlab:signs_w8a8"), (3, 64, 64))
    held = {m.packed.data_ptr() for m in optimized.original.modules() if isinstance(m, PackedLayer)}
    used = {n.weight.data.data_ptr() for p in programs(optimized) for n in p.nodes if isinstance(n, Conv)}
    assert used == held


def test_changed_tensors_count_after_a_refresh() -> None:
    model = Net(Affine(torch.ones(16), torch.zeros(16))).eval()
    optimized = optimize(model, (3, 8, 8))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["between.shift"] = torch.randn(16)
    optimized.load_state_dict(state)
    assert torch.equal(optimized(images()), model(images()))
    model.between.scale.neg_()
    optimized.refresh()
    assert torch.equal(optimized(images()), model(images()))


def test_inputs_that_programs_do_not_take_run_the_original() -> None:
    model = rl.load("robustlab:signs_w4a4")
    optimized = optimize(model, (3, 64, 64))
    for x in (images(2, 64).to(memory_format=torch.channels_last), images(0, 64), images(2, 64).transpose(2, 3)):
        assert torch.equal(optimized(x), model(x))
    for wrong in (images(2, 64).double(), torch.zeros(2, 5, 64, 64)):
        with pytest.raises((RuntimeError, rl.RobustlabError)):
            optimized(wrong)
    optimized.train()
    assert not optimized._fits(images(2, 64))


def test_a_float_model_and_a_simulated_one_have_nothing_to_fuse() -> None:
    model = rl.load("robustlab:signs_float").requires_grad_(False)
    optimized = optimize(model, (3, 64, 64))
    assert optimized.report().reason == "it has no packed layers"
    assert torch.equal(optimized(images(2, 64)), model(images(2, 64)))
    small = rl.compress(model, weights=4, activations=4, calibration=images(4, 64))
    assert optimize(freeze(small), (3, 64, 64)).report().reason == "it has no packed layers"


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="model"):
        optimize("model")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="training mode"):
        optimize(Net(nn.ReLU()).train())
    for size in ((3, 8), (3, 0, 8), 8, (3, 8.0, 8)):
        with pytest.raises(ArgumentError):
            optimize(Net(nn.ReLU()).eval(), size)  # type: ignore[arg-type]


def test_programs_are_made_in_inference_mode_too() -> None:
    model = rl.load("robustlab:signs_w1a1")
    optimized = optimize(model)
    with torch.inference_mode():
        assert torch.equal(optimized(images(2, 64)), model(images(2, 64)))
    assert programs(optimized)


def test_no_images_yet_means_no_report() -> None:
    assert optimize(Net(nn.ReLU()).eval()).report().reason == "no images seen yet"


def test_a_compiler_is_shown_the_original() -> None:
    model = rl.load("robustlab:signs_w4a4")
    optimized = optimize(model)
    batch = images(2, 64)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(optimized, backend="eager")(batch), model(batch))
        assert torch.equal(optimized(batch), model(batch))


class _Counting(nn.Module):
    """A model with a state that tracing cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = binary(3, 16)
        self.passes: dict[str, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.passes["n"] = self.passes.get("n", 0) + 1
        out: Tensor = self.layer(x) * self.passes["n"]
        return out


def test_a_model_with_a_state_of_its_own_runs_as_it_is() -> None:
    optimized = optimize(_Counting().eval())
    first, second = optimized(images()), optimized(images())
    passes = optimized.original.passes["n"]
    torch.testing.assert_close(second, first / (passes - 1) * passes)
    assert "state of its own" in optimized.report().reason
