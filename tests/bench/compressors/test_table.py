"""The tables: what is where, and what must not be read as an accuracy."""

from __future__ import annotations

from dataclasses import replace

from robustlab.bench.compressors import (
    Cell,
    CompressorBench,
    Latency,
    Quality,
    Scheme,
    Settings,
    best_after_training,
    compressor_markdown,
    compressor_table,
    state_text,
)
from robustlab.deploy import StoredBytes

SETTINGS = Settings("net", "f", "pictures", "d", 16, 24, None, 0, "1.0", "2.9")


def cell(algorithm: str, bits: int, state: str, points: float, **more: object) -> Cell:
    quality = Quality(80 + points, points, 1.25, 90, 0.1234, 0.01)
    latency = Latency(0.5, 2.0, 40, 1, "avx2", "a processor")
    made = Cell(
        algorithm, bits, bits, state, classes={"P": 3}, quality=quality, stored=StoredBytes(100, 20, 8, 4, 128),
        seconds=1.5, latency=latency,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


BENCH = CompressorBench(
    SETTINGS,
    80.0,
    1000,
    [
        cell("gptq", 2, "raw", -7.5),
        cell("mse", 4, "raw", -3.0),
        cell("mse", 4, "corrected", -1.0, seconds=6.0),
        cell("kl", 4, "corrected", -2.0),
        cell("react", 1, "untrained", -71.3, constant=2, binary=3, replaced="why"),
        cell("dab", 1, "untrained", -44.4, classes={"S": 2, "P": 1}, binary=2, latency=None),
        cell("lsq", 4, "trained", -0.5, source="best", note="3 epochs", seconds=None),
        cell("lsq", 4, "untrained", -33.3),
        Cell("cle", 4, 4, "raw", error="what | went wrong"),
    ],
)


def test_rows_are_by_scheme_and_algorithm_with_raw_beside_corrected() -> None:
    lines = compressor_markdown(BENCH).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| w")]
    assert [row[:2] for row in rows[:4]] == [["w4a4", "mse"], ["w4a4", "kl"], ["w2a2", "gptq"], ["w4a4", "lsq"]]
    numbers = ["77.0", "-3.0 ± 1.2", "0.123 ± 0.010", "1.5", "-1.0 ± 1.2", "0.123 ± 0.010", "6.0"]
    size = ["132", "100 + 20 + 8 + 4", "8.00", "0.500", "4.0x"]
    assert rows[0] == ["w4a4", "mse", "P", *numbers, *size]
    assert rows[1][3:7] == ["–"] * 4 and rows[2][7:10] == ["–"] * 3
    assert rows[3][2:6] == ["best", "3 epochs", "P", "79.5"]
    for line in lines:
        if line.startswith("|"):
            head = next(h for h in lines[lines.index(line) :: -1] if h.startswith("| bits"))
            assert line.replace("\\|", "").count("|") == head.count("|")


def test_the_untrained_show_no_accuracy_of_their_algorithm() -> None:
    for text in (compressor_table(BENCH), compressor_markdown(BENCH)):
        before, _, rest = text.partition("To be trained")
        assert "react" not in before and "dab" not in before
        assert "the accuracy is only that of the point where training starts" in rest
        assert "constant signs in 2 of 3 layers" in rest and "8.7" not in rest  # the accuracy of constant signs
        assert "35.6" in rest and "X: P" in rest and "S 2, P 1" in rest
        assert "46.7" not in text  # there is a trained lsq of these bits
        assert "± " not in rest.partition("Errors")[0]


def test_errors_and_the_machine_are_shown() -> None:
    text = compressor_table(BENCH)
    assert "Errors" in text and "what | went wrong" in text
    assert "what \\| went wrong" in compressor_markdown(BENCH)
    assert "Latency: a processor, avx2 kernels, 1 thread." in text
    assert "80.0 %, 1000 bytes" in text and "24 test images of pictures" in text
    empty = replace(BENCH, cells=[])
    assert compressor_table(empty).count("\n") == 0


def test_the_best_of_a_scheme_is_among_what_needs_no_training() -> None:
    found = best_after_training(BENCH, Scheme(4, 4))
    assert found is not None
    assert state_text(found[0]) == "mse + statistics correction" and found[1] == 3
    assert best_after_training(BENCH, Scheme(8, 8)) is None
