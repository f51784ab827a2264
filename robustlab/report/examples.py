"""Example images of a run: which are shown, and what every model said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustlab.report.view import Example, Picture, Prediction, field

# The first samples of the data, the same under every condition: nobody picked them.
SHARED_SAMPLES = 5
ATTACKED_SAMPLES = 2


def read_examples(results: object) -> tuple[Example, ...]:
    """The examples of `results`, by condition and sample; none where results have none.

    Each row has `condition`, `sample`, `label`, `png` (bytes), `predictions` (class number by model, -1 for none), and
    `model`: the one the image was made for, or None where all models were shown the same image.
    """
    names = tuple(str(name) for name in field(results, "class_names") or ())
    pictures: dict[tuple[str, int], list[Picture]] = {}
    labels: dict[tuple[str, int], int] = {}
    for row in field(results, "examples") or ():
        key = str(field(row, "condition")), int(field(row, "sample"))
        labels[key] = int(field(row, "label"))
        made_for = field(row, "model")
        said = _predictions(field(row, "predictions") or {}, labels[key], names)
        pictures.setdefault(key, []).append(Picture(bytes(field(row, "png")), said, made_for))
    examples = [
        Example(condition, sample, _class(labels[condition, sample], names), tuple(group))
        for (condition, sample), group in pictures.items()
    ]
    return tuple(example for example in examples if _is_shown(example, examples))


def _is_shown(example: Example, examples: Sequence[Example]) -> bool:
    limit = SHARED_SAMPLES if example.pictures[0].made_for is None else ATTACKED_SAMPLES
    samples = sorted({e.sample for e in examples if e.condition == example.condition})
    return example.sample in samples[:limit]


def _predictions(predictions: Mapping[str, int], label: int, names: Sequence[str]) -> tuple[Prediction, ...]:
    return tuple(Prediction(model, _class(number, names), number == label) for model, number in predictions.items())


def _class(number: int, names: Sequence[str]) -> str:
    if number < 0:
        return "no answer"
    return names[number].replace("_", " ") if number < len(names) else f"class {number}"
