"""`load_dataset`: names, splits and sizes."""

from __future__ import annotations

import pytest

from robustlab.core import ArgumentError
from robustlab.datasets import DATASETS, load_dataset


def test_descriptions():
    assert set(DATASETS) == {
        "signs",
        "cifar10",
        "gtsrb",
        "mnist",
        "imagenet1000",
        "imagenet-originals",
        "imagefolder",
    }
    assert all(text and "\n" not in text for text in DATASETS.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sings", "data is 'sings'; allowed: signs, cifar10, gtsrb, mnist, .*imagefolder:PATH .did you mean signs"),
        ("cifar100", "data is 'cifar100'.*did you mean cifar10"),
        ("imagefolder", "data is 'imagefolder'"),
        ("imagefolder:", "data is 'imagefolder:'"),
        ("imagefolder:PATH", "data is 'imagefolder:PATH'"),
        ("signs:3", "data is 'signs:3'"),
        ("", "data is ''"),
    ],
)
def test_unknown_names(spec, message):
    with pytest.raises(ArgumentError, match=message) as error:
        load_dataset(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["signs", "cifar10", "gtsrb", "mnist", "imagefolder:/nowhere"])
def test_unknown_split_comes_before_any_work(spec):
    with pytest.raises(ArgumentError, match=r"split is 'trian'; allowed: test, train .did you mean train"):
        load_dataset(spec, split="trian")


def test_a_fixed_size_cannot_be_changed():
    assert load_dataset("signs", image_size=64).image_size == (64, 64)
    with pytest.raises(ArgumentError, match="image_size is 32; allowed: 64 for signs"):
        load_dataset("signs", image_size=32)
