"""Programs natively: chunks of batches, memory, several readers and callers, and operands checked before they run."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from robustlab.core.errors import ArgumentError
from robustlab.kernels import ActivationSpec, ConvGeometry, PackedWeight, available, pack_weight, use_backend
from robustlab.kernels.ops import flat_form, flat_geometry
from robustlab.kernels.program import (
    AddValue,
    DivAll,
    Mul,
    Prelu,
    Program,
    ProgramBuilder,
    Scale,
    Step,
    Store,
    StoreInt,
    StoreSigns,
    Sub,
)

NATIVE = [name for name in available() if name != "reference"]
needs_native = pytest.mark.skipif(not NATIVE, reason="no compiled kernels")


def equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def expected(program: Program, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with use_backend("reference"):
        return program.run(inputs)


def weights(out: int, channels: int, size: int, bits: int = 1, activation_bits: int = 0) -> PackedWeight:
    limit = max(1, 2 ** (bits - 1) - 1)
    codes = torch.randint(-limit, limit + 1, (out, channels, size, size))
    codes = torch.where(codes == 0, 1, codes) if bits == 1 else codes
    return pack_weight(codes.to(torch.int8), bits, activation_bits=activation_bits)


def norm(channels: int) -> list[Step]:
    return [Scale(torch.rand(channels) * 0.1), Sub(torch.randn(channels)), Mul(torch.randn(channels))]


def residual(size: int, blocks: int) -> Program:
    """A small binary residual network with a stem of 8 bits, a shortcut of fewer pixels and an average at the end."""
    builder = ProgramBuilder()
    stem = weights(16, 3, 3, 8, 8)
    codes = builder.quantize(builder.input(3, size, size), ActivationSpec(0.03, 128, 8))
    padded = ConvGeometry(padding=(1, 1))
    value, signs = builder.conv(codes, stem, padded, [*norm(16), Store(), StoreSigns()])
    for _ in range(blocks):
        (inner,) = builder.conv(signs, weights(16, 16, 3), padded, [*norm(16), StoreSigns()])
        value, signs = builder.conv(
            inner,
            weights(16, 16, 3),
            padded,
            [*norm(16), AddValue(value), Prelu(torch.rand(16)), Store(), StoreSigns()],
        )
    shortcut = builder.subsample(value, 2, 8, 8)
    half = ConvGeometry(stride=(2, 2), padding=(1, 1))
    (value,) = builder.conv(signs, weights(32, 16, 3), half, [*norm(32), AddValue(shortcut), Store()])
    small = builder.value(value).height
    (value,) = builder.pool(value, "sum", small, 1, 0, [DivAll(small * small), Store()])
    builder.output(value)
    return builder.build()


@needs_native
@pytest.mark.parametrize(("size", "batch"), [(48, 9), (72, 4), (128, 3)])
def test_batches_run_in_chunks_that_fit_the_cache(size: int, batch: int) -> None:
    program, x = residual(size, 1), torch.randn(batch, 3, size, size)
    (wanted,) = expected(program, [x])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for backend in NATIVE:
                with use_backend(backend):
                    assert equal(program.run([x])[0], wanted)
    finally:
        torch.set_num_threads(before)


@needs_native
def test_values_that_are_never_alive_together_share_memory() -> None:
    short, long = residual(16, 2), residual(16, 12)
    assert short.arena_bytes == long.arena_bytes
    # two float values, the signs that are read and those that are made, with their halos
    assert long.arena_bytes < 16 * 16 * 16 * 4 * 2 + 2 * (18 * 18 * 2) + 4 * 128


@needs_native
def test_one_value_is_read_with_several_paddings_groups_and_forms() -> None:
    builder = ProgramBuilder()
    x = builder.input(30, 6, 5)
    signs = builder.pack(x)
    for padding_value in ("zero", "one", "neg_one"):
        for groups, out in ((1, 7), (2, 6), (3, 6), (30, 30)):
            codes = torch.where(torch.randn(out, 30 // groups, 3, 3) < 0, -1, 1).to(torch.int8)
            geometry = ConvGeometry(padding=(1, 2), groups=groups, padding_value=padding_value)
            builder.output(builder.conv(signs, pack_weight(codes, 1, groups), geometry, [StoreInt()])[0])
    quantized = builder.quantize(x, ActivationSpec(0.7, 1.5, 2))
    for bits in (1, 2, 5):
        for padding in (0, 1):
            geometry = ConvGeometry(padding=(padding, padding))
            acc = builder.conv(quantized, weights(9, 30, 3, bits, 2), geometry, [StoreInt()])[0]
            builder.output(acc)
    builder.output(builder.map(quantized, [AddValue(signs), AddValue(x), Store()])[0])
    program, image = builder.build(), torch.randn(3, 30, 6, 5)
    wanted = expected(program, [image])
    for backend in NATIVE:
        with use_backend(backend):
            for a, b in zip(program.run([image]), wanted, strict=True):
                assert equal(a, b)


@needs_native
def test_several_threads_may_run_one_program() -> None:
    program = residual(12, 2)
    cases = [torch.randn(1 + i % 3, 3, 12, 12) for i in range(8)]
    wanted = [expected(program, [x])[0] for x in cases]
    failures: list[int] = []

    def work(first: int) -> None:
        for i in range(40):
            case = (first + i) % len(cases)
            if not equal(program.run([cases[case]])[0], wanted[case]):
                failures.append(case)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@needs_native
def test_copies_and_strided_inputs_give_the_same() -> None:
    program, x = residual(10, 1), torch.randn(2, 3, 10, 10)
    (wanted,) = program.run([x])
    assert equal(copy.deepcopy(program).run([x])[0], wanted)
    assert equal(pickle.loads(pickle.dumps(program)).run([x])[0], wanted)
    assert equal(program.run([x.to(memory_format=torch.channels_last)])[0], wanted)
    assert equal(program.run([x.clone().requires_grad_()])[0], wanted)
    assert program.run([x[:0]])[0].shape == (0, 32, 1, 1)


def native_program() -> Any:
    """A native builder with a float input 0 (4, 6, 6), signs 1 of it, and free values 2 (int32) and 3 (float)."""
    from robustlab.kernels import _native

    program = _native.Program()
    for kind, sizes in ((0, (4, 6, 6)), (1, (4, 6, 6)), (3, (5, 6, 6)), (0, (5, 6, 6))):
        program.value(kind, sizes, 1.0, 0, 8)
    program.input(0)
    program.pack(0, NULL, NULL, NULL, 1)
    return program


NULL = (0, 0)
VECTOR = torch.ones(5)
SPAN = (VECTOR.data_ptr(), 5)
WEIGHT = weights(5, 4, 1)
FORM, PLACE = flat_form(WEIGHT.form), flat_geometry(ConvGeometry())
DATA = (WEIGHT.data.data_ptr(), WEIGHT.data.numel())


def made(name: str, value: int = -1, vector: tuple[int, int] = NULL, low: float = 0, high: float = 0) -> Any:
    return name, vector, NULL, low, high, value


@needs_native
@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: p.value(4, (1, 1, 1), 1.0, 0, 8),
        lambda p: p.value(0, (0, 1, 1), 1.0, 0, 8),
        lambda p: p.value(0, (2**20, 2**20, 1), 1.0, 0, 8),
        lambda p: p.value(2, (1, 1, 1), -1.0, 0, 8),
        lambda p: p.value(2, (1, 1, 1), 1.0, 0, 9),
        lambda p: p.input(0),
        lambda p: p.input(2),
        lambda p: p.input(9),
        lambda p: p.scalars(-1),
        lambda p: p.output(0),
        lambda p: p.output(1),
        lambda p: p.output(2),
        lambda p: p.pack(1, NULL, NULL, NULL, 3),
        lambda p: p.pack(0, NULL, NULL, NULL, 1),
        lambda p: p.pack(0, SPAN, NULL, NULL, 3),
        lambda p: p.conv(0, FORM, PLACE, DATA, [made("store_int", 2)]),
        lambda p: p.conv(1, FORM, PLACE, (DATA[0], DATA[1] - 1), [made("store_int", 2)]),
        lambda p: p.conv(1, FORM, PLACE, NULL, [made("store_int", 2)]),
        lambda p: p.conv(1, (5, 3, *FORM[2:]), PLACE, DATA, [made("store_int", 2)]),
        lambda p: p.conv(1, FORM, (0, *PLACE[1:]), DATA, [made("store_int", 2)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, []),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("store_int", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("store_int", -1)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("store_int", 1)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("store_int", 2), made("relu")]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("store", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("scale", vector=(SPAN[0], 4)), made("store", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("scale", vector=(0, 5)), made("store", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("scale", vector=SPAN), made("add_value", 0), made("store", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("scale", vector=SPAN), made("mul_image", 0), made("store", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("scale", vector=SPAN), made("clamp", low=1), made("store", 3)]),
        lambda p: p.conv(1, FORM, PLACE, DATA, [made("scale", vector=SPAN), made("other"), made("store", 3)]),
        lambda p: p.map(1, [made("store_int", 2)]),
        lambda p: p.map(1, [made("store", 3)]),
        lambda p: p.pool(1, False, (0, 1, 1, 1, 0, 0), [made("store", 3)]),
        lambda p: p.pool(1, False, (2, 2, 1, 1, 2, 0), [made("store", 3)]),
        lambda p: p.pool(1, True, (7, 1, 1, 1, 0, 0), [made("store", 3)]),
        lambda p: p.pool(1, True, (2**40, 2**40, 1, 1, 0, 0), [made("store", 3)]),
        lambda p: p.concat([], 3),
        lambda p: p.concat([1, 1], 3),
        lambda p: p.subsample(0, 1, 1, 2, 3),
        lambda p: p.subsample(0, 0, 1, 0, 3),
        lambda p: p.finish(),
        lambda p: p.arena_bytes(),
        lambda p: p.run(NATIVE[0], 1, 1, [], [], []),
    ],
)
def test_native_code_checks_every_operand_again(wrong: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError):
        wrong(native_program())


@needs_native
def test_native_code_checks_the_tensors_of_a_run() -> None:
    program = native_program()
    program.conv(1, FORM, PLACE, DATA, [made("store_int", 2), made("scale", vector=SPAN), made("store", 3)])
    program.output(3)
    program.finish()
    x, y = torch.randn(2, 4, 6, 6), torch.empty(2, 5, 6, 6)
    given, result = (x.data_ptr(), x.numel()), (y.data_ptr(), y.numel())
    program.run(NATIVE[0], 1, 2, [given], [], [result])
    for arguments in (
        ("other", 1, 2, [given], [], [result]),
        (NATIVE[0], 0, 2, [given], [], [result]),
        (NATIVE[0], 1, -1, [given], [], [result]),
        (NATIVE[0], 1, 3, [given], [], [result]),
        (NATIVE[0], 1, 2, [(0, given[1])], [], [result]),
        (NATIVE[0], 1, 2, [], [], [result]),
        (NATIVE[0], 1, 2, [given], [result], [result]),
        (NATIVE[0], 1, 2, [given], [], [(result[0], 4)]),
    ):
        with pytest.raises(ValueError):
            program.run(*arguments)
    with pytest.raises(ValueError):
        program.output(3)


def one_layer() -> tuple[Program, PackedWeight, Tensor]:
    generator = torch.Generator().manual_seed(5)
    weight = pack_weight((1 - 2 * torch.randint(0, 2, (32, 32, 3, 3), generator=generator)).to(torch.int8), 1)
    builder = ProgramBuilder()
    signs = builder.pack(builder.input(32, 9, 9))
    (end,) = builder.conv(signs, weight, ConvGeometry(padding=(1, 1)), [Scale(torch.ones(32)), Store()])
    builder.output(end)
    return builder.build(), weight, torch.randn(2, 32, 9, 9, generator=generator)


@needs_native
def test_weights_that_torch_moves_are_found() -> None:
    """Sharing a tensor with other processes moves its storage in place and frees the old one."""
    program, weight, x = one_layer()
    before = program.run([x])[0]
    weight.data.share_memory_()
    junk = [torch.randint(0, 255, (n,), dtype=torch.uint8) for n in range(1000, 20000, 97)]
    assert torch.equal(program.run([x])[0], before)
    assert junk


class Made(Sequence[Tensor]):
    """Tensors that nobody else holds."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self.x):
            raise IndexError
        return self.x[index] * 1.0


@needs_native
def test_inputs_live_until_the_run_ends() -> None:
    builder = ProgramBuilder()
    first, second = builder.input(64, 40, 40), builder.input(64, 40, 40)
    (end,) = builder.map(first, [AddValue(second), Store()])
    builder.output(end)
    program = builder.build()
    big = torch.randn(2, 8, 64, 40, 40, generator=torch.Generator().manual_seed(6))

    wanted = program.run([big[0], big[1]])[0]
    assert all(torch.equal(program.run(Made(big))[0], wanted) for _ in range(5))


@pytest.mark.parametrize("inputs", [None, 3, iter([]), {}.values(), torch.zeros(1, 32, 9, 9)])
def test_what_is_no_sequence_is_refused_in_one_line(inputs: Any) -> None:
    program, _, x = one_layer()
    with pytest.raises(ArgumentError, match="sequences of tensors"):
        program.run(inputs)
    with pytest.raises(ArgumentError, match="sequences of tensors"):
        program.run([x], inputs)


def test_a_view_whose_sign_torch_flips_is_read_with_it() -> None:
    program, _, x = one_layer()
    assert torch.equal(program.run([torch._neg_view(x)])[0], program.run([-x])[0])
    assert not torch.equal(program.run([-x])[0], program.run([x])[0])
