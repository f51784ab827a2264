// Text of assembler loops, for the files of this folder.
#pragma once

#define ROBUSTLAB_REPEAT_4(X) X(0) X(1) X(2) X(3)
#define ROBUSTLAB_REPEAT_8(X) ROBUSTLAB_REPEAT_4(X) X(4) X(5) X(6) X(7)
#define ROBUSTLAB_REPEAT_12(X) ROBUSTLAB_REPEAT_8(X) X(8) X(9) X(10) X(11)

#define ROBUSTLAB_LOOP(turns, prologue, body, ...) \
  asm volatile(prologue "1:\n" body "dec %0\n jnz 1b\n" : "+r"(turns) : : "cc", __VA_ARGS__)
