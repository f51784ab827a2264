"""Specs: what they refuse, their TOML files, and that they compress as the same arguments do."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.compress import (
    TRAINED,
    MadeFor,
    Spec,
    WeightScheme,
    compress,
    compress_with,
    describe_layers,
    freeze,
    made_for,
    read_spec,
    write_spec,
)
from robustlab.compress import spec as spec_module
from robustlab.compress.ptq import GPTQ, METHODS, AdaRound
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import ArgumentError
from robustlab.deploy import load
from robustlab.models import build

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
NOTES = st.recursive(
    TEXT | NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
SCHEMES = [WeightScheme(), WeightScheme("tensor"), WeightScheme(symmetric=False), WeightScheme("group", False, 128)]
BITS = st.tuples(st.integers(2, 8), st.integers(2, 8)) | st.just((1, 1))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    algorithm = draw(st.sampled_from(["mse", "kl", "gptq", "adaround", "lsq", "binary"]))
    one = algorithm == "binary"
    options: dict[str, Any] = {}
    if algorithm == "gptq":
        options = draw(
            st.fixed_dictionaries({}, optional={"damping": st.just([0.01, 1.0]), "order": st.just("diagonal")})
        )
    if algorithm == "adaround":
        options = draw(st.fixed_dictionaries({}, optional={"iterations": st.integers(1, 99)}))
    return Spec(
        weights=1 if one else draw(st.integers(2, 8)),
        activations=1 if one else draw(st.integers(2, 8)),
        algorithm=algorithm,
        options=options,
        statistics_correction=draw(st.booleans()) and algorithm not in ("binary", "lsq"),
        first_last_bits=draw(st.none() | st.integers(2, 8)),
        layers=draw(st.dictionaries(TEXT, BITS, max_size=4)),
        keep_float=tuple(draw(st.lists(TEXT, max_size=3))),
        weight_scheme=draw(st.sampled_from(SCHEMES)) if algorithm in ("mse", "kl") else WeightScheme(),
        seed=draw(st.integers(0, 2**32 - 1)),
        made_for=draw(st.none() | st.builds(MadeFor, TEXT.filter(bool), st.dictionaries(TEXT, TEXT, max_size=3))),
        notes=draw(st.dictionaries(TEXT, NOTES, max_size=4)),
    )


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return build("robustlab:signs_resnet", {"classes": 5, "widths": [8, 16], "blocks": [1, 1]})


@settings(max_examples=150, deadline=None)
@given(specs())
def test_a_written_spec_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, spec: Spec) -> None:
    path = tmp_path_factory.mktemp("spec") / "spec.toml"
    assert write_spec(spec, path) == path
    found = read_spec(path)
    assert found == spec
    assert list(found.layers) == list(spec.layers)  # later patterns win: their order counts
    assert found.table() == spec.table()


def test_the_documented_files_are_read(tmp_path: Path) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    examples = re.findall(r"```toml\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    examples.append(textwrap.dedent(str(spec_module.__doc__).partition("\n\n")[2]))
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.toml"
        path.write_text(example)
        assert read_spec(path) != Spec() and read_spec(path).layers
    assert len(examples) == 2


def test_a_file_by_hand_says_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(
        'weights = 3\nfirst_last_bits = "same"\nkeep_float = ["head*"]\n[layers]\n"a.*" = [2, 4]\na = [8, 8]\n'
    )
    wanted = Spec(weights=3, first_last_bits=None, keep_float=["head*"], layers={"a.*": (2, 4), "a": (8, 8)})
    assert read_spec(path) == wanted
    assert Spec() == Spec(weights=8, activations=8, algorithm="mse", first_last_bits=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights = 9", ["weights is 9", "2 to 8"]),
        ("weights = 0", ["weights is 0", "2 to 8"]),
        ("weights = 1", ["weights is 1", "binary"]),
        ("weights = 4.0", ["weights is 4.0", "a whole number"]),
        ("weights = true", ["weights is True"]),
        ("weigths = 4", ["a key is 'weigths'", "did you mean weights?"]),
        ('algorithm = "gtpq"', ["algorithm is 'gtpq'", "did you mean gptq?"]),
        ("algorithm = 4", ["algorithm is 4"]),
        ('algorithm = "react"', ["weights, activations is (8, 8)", "1 for both with algorithm react"]),
        ('algorithm = "lsq"\nstatistics_correction = true', ["statistics_correction is True", "lsq"]),
        ("statistics_correction = 1", ["statistics_correction is 1", "True or False"]),
        ("first_last_bits = 1", ["first_last_bits is 1", "2 to 8"]),
        ('first_last_bits = "none"', ["first_last_bits is 'none'"]),
        ("seed = -1", ["seed is -1"]),
        ("[layers]\nstem = [9, 4]", ["weights of stem is 9", "2 to 8"]),
        ("[layers]\nstem = [1, 4]", ["weights of stem is 1"]),
        ("[layers]\nstem = 4", ["bits of stem is 4", "(weight bits, activation bits)"]),
        ("layers = 4", ["layers is 4", "a table"]),
        ('keep_float = "stem"', ["keep_float is 'stem'", "a list"]),
        ('[weight_scheme]\ngranularity = "row"', ["granularity is 'row'", "tensor, channel, group"]),
        ("[weight_scheme]\nsize = 64", ["a key of weight_scheme is 'size'", "granularity, symmetric, group_size"]),
        ("weight_scheme = 4", ["weight_scheme is 4", "a table"]),
        ('algorithm = "gptq"\n[weight_scheme]\nsymmetric = false', ["weight_scheme is", "granularity channel", "gptq"]),
        ("[options]\niterations = 5", ["options", "none with algorithm mse"]),
        ('algorithm = "adaround"\n[options]\niterations = 0', ["iterations is 0"]),
        ('algorithm = "adaround"\n[options]\niterations = 2.5', ["iterations of adaround is 2.5"]),
        ('algorithm = "adaround"\n[options]\nsteps = 5', ["an option of adaround is 'steps'", "iterations"]),
        ('algorithm = "gptq"\n[options]\ndamping = 0.1', ["damping of gptq is 0.1", "a list such as"]),
        ('algorithm = "gptq"\n[options]\ndamping = ["x"]', ["damping is 'x'"]),
        ("[made_for]\nlayers = {}", ["made_for.architecture"]),
        ('[made_for]\narchitecture = "a"\nlayers = {a = 1}', ["made_for.layers.a is 1"]),
        ('[made_for]\nname = "a"', ["a key of made_for is 'name'", "architecture, layers"]),
        ("[notes]\na = nan", ["notes.a is nan"]),
        ("[notes]\na = 1979-05-27", ["notes.a is", "1979"]),
        ("weights = ", ["TOML"]),
    ],
)
def test_a_bad_file_is_refused_with_its_name_key_value_and_what_is_allowed(
    text: str, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ArgumentError) as caught:
        read_spec(path)
    message = str(caught.value)
    assert "bad.toml" in message and "allowed" in message and "\n" not in message
    for word in words:
        assert word in message


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'algorithm = "\xe9"')
    for name in ("missing.toml", ".", "latin.toml"):
        with pytest.raises(ArgumentError, match="TOML file"):
            read_spec(tmp_path / name)
    with pytest.raises(ArgumentError, match="a file that can be written"):
        write_spec(Spec(), tmp_path / "no" / "folder.toml")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"notes": {"a": None}}, "notes.a"),
        ({"notes": {1: "a"}}, "notes"),
        ({"notes": {"a": [2**70]}}, "notes.a"),
        ({"options": [1]}, "options"),
        ({"made_for": "resnet"}, "made_for"),
        ({"keep_float": [1]}, "keep_float"),
    ],
)
def test_bad_fields_are_refused(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} is .*; allowed: "):
        Spec(**arguments)


@pytest.mark.parametrize("name", [*METHODS, *list(TRAINED)[:2]])
def test_every_name_makes_its_method(name: str) -> None:
    assert Spec(algorithm=name).method() == METHODS.get(name, Spec().method())


def test_options_become_hyper_parameters() -> None:
    spec = Spec(algorithm="gptq", options={"damping": [0.01], "order": "diagonal", "observer": "minmax"})
    assert spec.method() == GPTQ("minmax", (0.01,), "diagonal")
    assert Spec(algorithm="adaround", options={"learning_rate": 1}).method() == AdaRound(learning_rate=1)


@pytest.mark.parametrize(
    "spec",
    [
        Spec(weights=4, activations=4),
        Spec(
            weights=3, activations=5, first_last_bits=None, layers={"*": (4, 4), "stem*": (8, 6)}, keep_float=["head*"]
        ),
        Spec(weights=4, activations=4, algorithm="minmax", statistics_correction=True),
        Spec(weights=2, activations=2, algorithm="lsq"),
        Spec(weights=4, activations=4, weight_scheme=WeightScheme("group", False)),
    ],
)
def test_a_spec_compresses_as_the_same_arguments_do(spec: Spec) -> None:
    model = network()
    found = compress_with(model, spec, calibration=images())
    wanted = compress(
        model,
        weights=spec.weights,
        activations=spec.activations,
        algorithm=spec.algorithm,
        statistics_correction=spec.statistics_correction,
        first_last_bits=spec.first_last_bits,
        layers=spec.layers,
        keep_float=spec.keep_float,
        weight_scheme=spec.weight_scheme,
        calibration=images(),
    )
    one, other = freeze(found), freeze(wanted)
    assert str(one) == str(other)
    assert tensors_digest(dict(one.state_dict())) == tensors_digest(dict(other.state_dict()))


def test_a_spec_for_another_model_is_refused_before_calibration() -> None:
    def never() -> Any:
        raise AssertionError("calibration was read")
        yield

    model = network()
    spec = Spec(made_for=made_for(model))
    assert spec.made_for is not None and spec.made_for.architecture == "custom:SignsResNet"
    assert made_for(load("robustlab:signs_float")).architecture == "robustlab:signs_resnet"
    assert describe_layers(model)["stem"] == "conv2d 8x3x3x3 groups=1"
    assert describe_layers(nn.Conv2d(4, 8, 3, groups=2)) == {"": "conv2d 8x2x3x3 groups=2"}
    spec.check(model)
    wider = build("robustlab:signs_resnet", {"classes": 6, "widths": [8, 16], "blocks": [1, 1]})
    with pytest.raises(ArgumentError, match=r"linear 5x16, not .* linear 6x16"):
        compress_with(wider, spec, calibration=never())
    deeper = build("robustlab:signs_resnet", {"classes": 5, "widths": [8, 16], "blocks": [1, 2]})
    with pytest.raises(ArgumentError, match="made for: without "):
        compress_with(deeper, spec, calibration=never())
    with pytest.raises(ArgumentError, match="not no layer "):
        compress_with(nn.Sequential(nn.Conv2d(3, 4, 3)), spec, calibration=never())


def test_a_spec_still_fits_a_model_that_was_compressed_in_part() -> None:
    model = network()
    spec = Spec(made_for=made_for(model))
    part = compress(model, weights=4, activations=4, keep_float=["head*"], calibration=images())
    spec.check(part)
    assert compress_with(part, spec, calibration=images()) is not None


def test_tables_nested_too_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("notes." + ".".join(["a"] * 900) + " = 1")
    with pytest.raises(ArgumentError, match="at most 20"):
        read_spec(path)
