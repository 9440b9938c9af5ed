import struct

import pytest

from amr_pipeline.engines.seccomp_filter import AARCH64, X86_64, denied_numbers, filter_program

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def decide(program: bytes, machine: int, number: int, first_argument: int = 0) -> int:
    """What the kernel would do: runs the few instructions that the filter is made of."""
    data = struct.pack("=iIQQ", number, machine, 0, first_argument)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = held = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize(
    ("number", "first_argument", "decision"),
    [
        (0, 0, ALLOW),  # read
        (1, 0, ALLOW),  # write
        (59, 0, ALLOW),  # execve
        (53, 0, ALLOW),  # socketpair
        (41, 0, EPERM),  # socket
        (101, 0, EPERM),  # ptrace
        (165, 0, EPERM),  # mount
        (272, 0, EPERM),  # unshare
        (425, 0, EPERM),  # io_uring_setup
        (435, 0, ENOSYS),  # clone3
        (56, 17, ALLOW),  # clone as fork does
        (56, 0x003D0F00, ALLOW),  # clone as threads do
        (56, 0x10000000 | 17, EPERM),  # clone into a user namespace
        (56, 0x00020000 | 17, EPERM),
        (56, 0x40000000 | 17, EPERM),
        (0x40000000 + 1, 0, KILL),  # the x32 way to call write
        (112, 0, ALLOW),  # setsid
    ],
)
def test_decisions_on_x86_64(number: int, first_argument: int, decision: int):
    assert decide(filter_program(X86_64), X86_64, number, first_argument) == decision


def test_calls_of_another_architecture_end_the_process():
    assert decide(filter_program(X86_64), 0x40000003, 1) == KILL
    assert decide(filter_program(AARCH64), X86_64, 1) == KILL


def test_decisions_on_aarch64():
    program = filter_program(AARCH64)
    assert [decide(program, AARCH64, number) for number in (63, 64, 198, 117, 435)] == [
        ALLOW,
        ALLOW,
        EPERM,
        EPERM,
        ENOSYS,
    ]
    assert decide(program, AARCH64, 220, 0x10000011) == EPERM


def test_making_boxes_takes_three_calls_more_and_namespaces():
    program = filter_program(X86_64, makes_boxes=True)
    assert [decide(program, X86_64, number) for number in (165, 126)] == [ALLOW, ALLOW]
    assert decide(program, X86_64, 56, 0x20000000 | 17) == ALLOW
    assert decide(program, X86_64, 56, 0x30000000 | 17) == EPERM, "a user namespace is in no box"
    assert [decide(program, X86_64, number) for number in (41, 101, 321, 308)] == [EPERM] * 4


def test_staying_in_the_group_denies_leaving_it():
    assert decide(filter_program(X86_64, group_bound=True), X86_64, 112) == EPERM
    assert set(denied_numbers(X86_64, group_bound=True)) - set(denied_numbers(X86_64)) == {109, 112}
