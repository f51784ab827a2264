"""The `signs` data set: determinism, balance, splits, and that the pictures show what the labels say."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.core import ArgumentError
from robustlab.datasets import Signs, load_dataset
from robustlab.datasets.signs import CLASS_NAMES, DEFAULT, label, render
from robustlab.datasets.signs.templates import LEVELS, drawn, template


def test_shapes_types_and_lattice():
    images, labels = load_dataset("signs").batch(range(30))
    assert images.shape == (30, 3, 64, 64) and images.dtype == torch.float32 and images.is_contiguous()
    assert labels.shape == (30,) and labels.dtype == torch.int64
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    levels = torch.round(images * 255)
    assert torch.equal(levels / 255, images)
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 24


def test_sizes_names_and_empty_batch():
    train, test = load_dataset("signs", split="train"), load_dataset("signs", split="test")
    assert (len(train), len(test)) == (40_000, 10_000)
    assert test.name == "signs" and test.image_size == (64, 64) and test.class_names == CLASS_NAMES
    images, labels = test.batch([])
    assert images.shape == (0, 3, 64, 64) and labels.shape == (0,)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9_999), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_an_image_does_not_depend_on_its_batch(indices, random):
    data = Signs("test")
    images, labels = data.batch(indices)
    order = list(range(len(indices)))
    random.shuffle(order)
    cut = random.randint(0, len(order))
    for part in (order[:cut], order[cut:]):
        again, again_labels = data.batch([indices[i] for i in part])
        assert torch.equal(again, images[part]) and torch.equal(again_labels, labels[part])


def test_render_is_what_a_batch_holds():
    images, labels = Signs("train", seed=3).batch([5, 39_999])
    for row, index in enumerate((5, 39_999)):
        pixels = render(3, "train", index)
        assert pixels.dtype == np.uint8 and pixels.shape == (64, 64, 3)
        assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, images[row])
        assert label(3, "train", index) == int(labels[row])


def test_threads_and_thread_count_do_not_matter():
    expected, _ = Signs("test").batch(range(40))
    results = {}

    def work(name):
        results[name] = Signs("test").batch(range(40))[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(torch.equal(r, expected) for r in results.values())


def test_global_random_state_is_untouched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Signs("test", seed=11).batch(range(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002


@pytest.mark.parametrize("split", ["train", "test"])
def test_any_prefix_is_balanced_and_order_is_random(split):
    labels = [label(0, split, i) for i in range(2400)]
    for length in (24, 100, 500, 2400):
        counts = np.bincount(labels[:length], minlength=24)
        assert counts.max() - counts.min() <= 1
    assert labels[:24] != labels[24:48] and labels[:24] != sorted(labels[:24])


def test_splits_and_seeds_are_disjoint():
    def digests(split, seed):
        images, _ = Signs(split, seed=seed).batch(range(200))
        return {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images}

    sets = [digests("train", 0), digests("test", 0), digests("test", 1)]
    assert all(len(s) == 200 for s in sets)
    assert len(set.union(*sets)) == 600


def test_fingerprint_tells_contents_apart():
    prints = [
        Signs("test").fingerprint,
        Signs("train").fingerprint,
        Signs("test", seed=1).fingerprint,
        Signs("test", difficulty=replace(DEFAULT, fade=0.1)).fingerprint,
    ]
    assert len(set(prints)) == 4 and Signs("test").fingerprint == prints[0]
    assert all(int(p, 16) >= 0 for p in prints)


def test_difficulty_changes_the_picture():
    calm = replace(DEFAULT, noise=(0.0, 0.0))
    assert not np.array_equal(render(0, "test", 0), render(0, "test", 0, calm))


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_templates_are_opaque_in_the_middle_and_clear_in_two_corners(name):
    pixels = np.asarray(drawn(name))
    size = len(pixels)
    assert pixels[size // 2, size // 2, 3] == 255
    # Upright triangles have clear upper corners, the others at least a clear first pixel.
    assert pixels[0, 0, 3] < 128 and pixels[0, -1, 3] < 128
    assert {template(CLASS_NAMES.index(name), s).size for s in LEVELS} == {(s, s) for s in LEVELS}


def test_templates_have_the_real_colours_and_shapes():
    def at(name, x, y):
        pixels = np.asarray(drawn(name)).astype(int)
        size = len(pixels)
        return pixels[int((y + 1) / 2 * size), int((x + 1) / 2 * size)]

    red, blue = at("stop", 0, -0.75), at("ahead-only", -0.6, 0)
    assert red[0] > 150 > 80 > red[1] and blue[2] > 130 > blue[0]
    assert all(at("yield", 0, -0.3)[:3] > 200)
    assert at("priority-road", 0, 0)[0] > 200 > 100 > at("priority-road", 0, 0)[2]
    assert all(at("no-entry", 0.4, 0)[:3] > 200) and at("no-entry", 0.4, 0.4)[0] > 150 > at("no-entry", 0.4, 0.4)[1]
    # An octagon and a square fill what a circle leaves clear; a triangle leaves more.
    cover = {n: np.asarray(drawn(n))[..., 3].mean() / 255 for n in ("yield", "speed-limit-50", "stop", "parking")}
    assert cover["yield"] < 0.5 < cover["speed-limit-50"] < 0.8 < cover["parking"]


@pytest.mark.parametrize(
    ("left", "right"), [("curve-left", "curve-right"), ("turn-left", "turn-right"), ("keep-left", "keep-right")]
)
def test_left_and_right_are_mirror_images(left, right):
    a, b = (np.asarray(drawn(n)).astype(int) for n in (left, right))
    assert np.abs(a[:, ::-1] - b).max() <= 1
    assert np.abs(a - b).max() > 100


def test_nearest_template_beats_chance_on_easy_crops():
    """Labels belong to the pictures: without nuisances the crop is its own template, up to a blur."""
    easy = replace(
        DEFAULT, radius=(31.0, 31.0), roll_degrees=0.0, tilt_degrees=0.0, shift=0.0, coarse_probability=0.0,
        defocus_probability=0.0, motion_probability=0.0, gain=(1.0, 1.0), gamma=(1.0, 1.0), cast=0.0,
        fog_probability=0.0, shadow_probability=0.0, glare_probability=0.0, dirt_probability=0.0, fade=0.0,
        occlusion_probability=0.0, neighbour_probability=0.0, noise=(0.0, 0.0),
    )  # fmt: skip
    templates = [np.asarray(template(c, 64).resize((62, 62))).astype(float) for c in range(24)]
    for index in range(48):
        crop = render(0, "test", index, easy)[1:63, 1:63].astype(float)
        errors = [((crop - t[..., :3]) ** 2)[t[..., 3] > 250].mean() for t in templates]
        best = int(np.argmin(errors))
        covered = templates[best][..., 3].mean() / templates[label(0, "test", index)][..., 3].mean()
        assert best == label(0, "test", index) or covered < 0.9, CLASS_NAMES[best]


@pytest.mark.parametrize("indices", [[-1], [10_000], [0.5]])
def test_bad_indices(indices):
    with pytest.raises(ArgumentError, match="indices is"):
        Signs("test").batch(indices)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"split is 'tset'.*did you mean test"):
        Signs("tset")
    with pytest.raises(ArgumentError, match="seed is -1"):
        Signs("test", seed=-1)
