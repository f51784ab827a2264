from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustlab.attacks import PGD
from robustlab.core import ArgumentError, DataError, Linf
from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import CORRUPTIONS
from robustlab.evaluate import SUITES, AttackCondition, Clean, CorruptionCondition, load_suite, parse_condition
from robustlab.evaluate.conditions import KEY_PATTERN

QUICK = [
    "clean",
    "fgsm-linf-2of255",
    "pgd20-linf-1of255",
    "pgd20-linf-8of255",
    "gaussian-noise-3",
    "brightness-3",
    "contrast-3",
    "pixelate-3",
    "jpeg-compression-3",
]


@pytest.mark.parametrize(
    "key", [*QUICK, *(f"{name.replace('_', '-')}-5" for name in CORRUPTIONS if name != "frost"), "pgd7-l2-0.5"]
)
def test_key_and_parse_are_inverse(key: str) -> None:
    condition = parse_condition(key)
    assert condition.key == key
    assert KEY_PATTERN.fullmatch(condition.key)
    assert condition.version >= 1


def test_kinds() -> None:
    assert parse_condition("clean") == Clean()
    assert parse_condition("gaussian-noise-3") == CorruptionCondition("gaussian_noise", 3)
    attack = parse_condition("pgd20-linf-8of255")
    assert attack == AttackCondition(PGD(Linf(8 / 255), steps=20))
    assert attack.depends_on_model
    assert attack.adversarial
    assert not parse_condition("clean").depends_on_model
    assert not parse_condition("contrast-1").adversarial


def test_parameters_tell_apart_what_the_key_may_not() -> None:
    one, two = (AttackCondition(PGD(Linf(8 / 255), steps=20, step_size=s)) for s in (1 / 255, 2 / 255))
    assert one.parameters != two.parameters


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("gausian-noise-3", "did you mean gaussian-noise-3?"),
        ("cleen", "did you mean clean?"),
        ("gaussian-noise-6", "severity"),
        ("gaussian-noise-0", "severity"),
        ("gaussian_noise-3", "did you mean gaussian-noise-3?"),
        ("pgd20-linf", "pgd20-linf"),
        ("fgsm-l7-1of255", "fgsm-l7"),
        ("", "allowed: clean"),
        ("Clean", "allowed: clean"),
        ("a\nb", "allowed: clean"),
    ],
)
def test_unknown_keys_name_what_is_allowed(key: str, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_condition(key)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frost_says_which_textures_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frost").mkdir()
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path))
    assert parse_condition("frost-2").key == "frost-2"
    with pytest.raises(DataError, match=r"frost1\.png"):
        parse_condition("frost-2").show(
            torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64), sample_keys(0, "f", [0]), None
        )
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path / "nothing"))
    assert parse_condition("frost-2").key == "frost-procedural-2"


def test_corruptions_do_not_depend_on_the_batch() -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(6, dtype=torch.int64)
    condition = parse_condition("gaussian-noise-3")
    keys = sample_keys(0, condition.key, range(6))
    together = condition.show(images, labels, keys, None)
    apart = torch.cat([condition.show(images[i : i + 1], labels[:1], keys[i : i + 1], None).images for i in range(6)])
    assert torch.equal(together.images, apart)
    assert bool(condition.contains(together.images, images).all())
    assert not together.attacked.any()


def test_quick() -> None:
    assert [c.key for c in SUITES["quick"].conditions] == QUICK
    assert load_suite("quick") is SUITES["quick"]


@pytest.mark.parametrize(
    ("suite", "l2", "l1"),
    [("robustmq", (0.5, 2, 8), (100, 400, 1600)), ("robustmq-32", (0.07, 0.29, 1.14), (2, 8, 33))],
)
def test_robustmq_is_seven_attacks_at_three_budgets(suite: str, l2: tuple[float, ...], l1: tuple[float, ...]) -> None:
    attacks = [c.attack for c in SUITES[suite].conditions if isinstance(c, AttackCondition)]
    found = {(a.name, a.ball.norm_name): [] for a in attacks}  # type: ignore[attr-defined,var-annotated]
    for attack in attacks:
        found[attack.name, attack.ball.norm_name].append(attack.ball.eps)  # type: ignore[attr-defined]
    linf = [0.5 / 255, 2 / 255, 8 / 255]
    assert found == {
        ("fgsm", "linf"): linf,
        ("pgd", "linf"): linf,
        ("pgd", "l2"): list(l2),
        ("pgd", "l1"): list(l1),
        ("mifgsm", "linf"): linf,
        ("ddn", "l2"): list(l2),
        ("autoattack", "linf"): linf,
    }
    for attack in attacks:
        if attack.name == "pgd":  # type: ignore[attr-defined]
            assert attack.step_size == pytest.approx(3 / 40 * attack.ball.eps)  # type: ignore[attr-defined]


GOOD = 'name = "mine"\ndescription = "My own"\nconditions = ["clean", "contrast-2"]\n'


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    suite = load_suite(str(tmp_path / "mine.toml"))
    assert (suite.name, suite.description, [c.key for c in suite.conditions]) == (
        "mine",
        "My own",
        ["clean", "contrast-2"],
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "a TOML file"),
        (GOOD + "epsilon = 3\n", "'epsilon'; allowed: name, description, conditions"),
        (GOOD.replace('"mine"', "3"), "name in suite"),
        (GOOD.replace('"My own"', '""'), "description in suite"),
        (GOOD.replace('["clean", "contrast-2"]', "[]"), "conditions in suite"),
        (GOOD.replace('"clean"', "1"), "conditions in suite"),
        (GOOD.replace('"clean"', '"contrast-2"'), "each condition once"),
        (GOOD.replace('"clean"', '"contrst-2"'), "did you mean contrast-2"),
        (GOOD.replace('name = "mine"\n', ""), "name in suite"),
    ],
)
def test_a_bad_suite_names_the_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ArgumentError) as caught:
        load_suite(tmp_path / "mine.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_suite_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="No such file"):
        load_suite(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ArgumentError, match="not UTF-8"):
        load_suite(tmp_path / "bytes.toml")
