"""Matrix products."""

from .case import row

MATMUL = [
    row("matmul", "float32[5, 7]", "float32[7, 33]", terms=7),
    row("matmul", "float32[1, 700]", "float32[700, 10]", terms=700),
    row("matmul", "float32[17, 9]", "float32[30, 9]", terms=9, transpose_b=True),
    row("matmul", "float32[9, 17]", "float32[9, 3]", terms=9, transpose_a=True),
    row("matmul", "float32[2, 5, 3]", "float32[2, 4, 5]", terms=5, transpose_a=True,
        transpose_b=True),
    row("matmul", "float64[2, 1, 4, 5]", "float64[3, 5, 6]", terms=5),
    row("matmul", "float32[1, 1]", "float32[1, 1]"),
    row("matmul", "float32[4, 0]", "float32[0, 3]", terms=0),
    row("matmul", "float32[0, 4]", "float32[4, 3]", terms=4),
    row("matmul", "float32[N, 6]", "float32[6, 19]", terms=6),
    row("matmul", "int32[3, 5]", "int32[5, 4]", terms=5),
    row("matmul", "uint8[3, 50]", "uint8[50, 4]", terms=50),
    row("matmul", "bfloat16[3, 20]", "bfloat16[20, 4]", terms=20),
    row("matmul", "float16[3, 20]", "float16[20, 17]", terms=20),
    row("matmul", "float32[3, 5] special", "float32[5, 9] special", terms=5),
]  # fmt: skip
