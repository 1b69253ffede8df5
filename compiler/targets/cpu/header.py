"""netloom/abi.py -> netloom.h, and a program -> its own header: the same declarations, constants
and typed calls.

Names of the model become identifiers of letters, digits and underscores; nothing else of the
model's text gets in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from netloom import abi

from ...dim import Extent, Minimum, Quotient, Remainder, Symbol, symbols_of
from ...program import Entry, Port, Program
from ...tensor_type import DType
from .entry_plan import EntryPlan

_KEYWORDS = frozenset({  # of C and C++, and macros of their compilers
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break",
    "case", "catch", "char", "char16_t", "char32_t", "char8_t", "class", "co_await", "co_return",
    "co_yield", "compl", "concept", "const", "const_cast", "consteval", "constexpr", "constinit",
    "continue", "decltype", "default", "delete", "do", "double", "dynamic_cast", "else", "enum",
    "explicit", "export", "extern", "false", "float", "for", "friend", "goto", "if", "inline",
    "int", "linux", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq", "nullptr",
    "operator", "or", "or_eq", "private", "protected", "public", "register", "reinterpret_cast",
    "requires", "restrict", "return", "short", "signed", "sizeof", "static", "static_assert",
    "static_cast", "struct", "switch", "template", "this", "thread_local", "throw", "true", "try",
    "typedef", "typeid", "typename", "typeof", "union", "unix", "unsigned", "using", "virtual",
    "void", "volatile", "wchar_t", "while", "xor", "xor_eq",
    # names that the typed functions use themselves, in lower case
    "api", "code", "context", "dltensor", "inputs", "int16_t", "int32_t", "int64_t", "int8_t",
    "null", "outputs", "shape", "state", "uint16_t", "uint32_t", "uint64_t", "uint8_t",
})  # fmt: skip
_C_TYPES = {
    DType.FLOAT32: "float",
    DType.FLOAT64: "double",
    DType.FLOAT16: "uint16_t",
    DType.BFLOAT16: "uint16_t",
    DType.BOOL: "uint8_t",
}
_LONGEST = 48  # characters of an identifier


def generic_header() -> str:
    """netloom.h: everything that holds for all programs."""
    lines = [
        "/* The C interface of netloom programs. Get the table with nl_get_api(NL_ABI_VERSION), or dlsym that name. */",
        "#ifndef NETLOOM_H", "#define NETLOOM_H", "", "#include <stddef.h>", "#include <stdint.h>", "",
        "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
        f"#define NL_ABI_VERSION {abi.ABI_VERSION}", f"#define NL_MAX_RANK {abi.MAX_RANK}", "",
        *(f"#define {code.name} {code.value} /* {code.doc} */" for code in abi.CODES), "",
        "#ifndef DLPACK_DLPACK_H_ /* dlpack.h has the same definitions */",
        *(line for record in abi.DLPACK_RECORDS for line in _record(record)), "#endif", "",
        *(f"typedef struct {name} {name}; /* {doc} */" for name, doc in abi.HANDLES.items()), "",
        *(line for hook in abi.HOOKS for line in _hook(hook)), "",
        *_record(abi.OPTIONS), "", *_table(), "",
        "/* The program's only symbol: the table, or NULL if the program does not know the version. */",
        f"const nl_api *{abi.ENTRY_POINT}(uint32_t version);", "",
        "/* The first word of every handle is the address of its table. */",
        "static inline const nl_api *nl_api_of(const void *handle) { return *(const nl_api *const *)handle; }", "",
        "#ifdef __cplusplus", "}", "#endif", "", "#endif", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _record(record: abi.Record) -> list[str]:
    fields = [f"    {_declare(field)};{_comment(field.doc)}" for field in record.fields]
    return [f"typedef struct {{ /* {record.doc} */", *fields, f"}} {record.name};"]


def _declare(member: abi.Member) -> str:
    return f"{member.type}{'' if member.type.endswith('*') else ' '}{member.name}"


def _comment(text: str) -> str:
    return f" /* {text} */" if text else ""


def _arguments(signature: abi.Signature) -> str:
    return ", ".join(map(_declare, signature.arguments))


def _hook(hook: abi.Signature) -> list[str]:
    return [f"typedef {_pointer(hook)}; /* {hook.doc} */"]


def _pointer(function: abi.Signature) -> str:
    result = function.result if function.result.endswith("*") else f"{function.result} "
    return f"{result}(*{function.name})({_arguments(function)})"


def _table() -> list[str]:
    lines = [
        "typedef struct { /* Functions that return int32_t return NL_OK or an error code. */",
        "    uint32_t version;",
        "    uint32_t size; /* of this table: later versions only append */",
    ]
    for function in abi.FUNCTIONS:
        lines += [f"    /* {function.doc} */", f"    {_pointer(function)};"]
    return [*lines, "} nl_api;"]


# -- one program -----------------------------------------------------------------------------------


def model_header(program: Program) -> str:
    """The header of a program: the generic part, constants of its shapes, and one typed function
    per entry.
    """
    name = identifier(program.name, "model")
    guard = f"NETLOOM_{name.upper()}_H"
    lines = [
        f"/* The program {name}. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        generic_header(),
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
    ]
    for entry in program.entries:
        lines += _entry(program, entry, name)
    return "\n".join([*lines, "#ifdef __cplusplus", "}", "#endif", "", "#endif", ""])


def identifier(text: str, default: str) -> str:
    """A C identifier made of a name of the model."""
    word = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:_LONGEST].rstrip("_")
    if not word or word.lower() in _KEYWORDS or word.startswith("nl_"):
        word = f"{default}_{word}" if word else default
    return f"n{word}" if word[0].isdigit() else word


def identifiers(names: Sequence[str], default: str, taken: set[str]) -> list[str]:
    """Distinct identifiers, in order; ``taken`` grows by them."""
    result = []
    for name in names:
        base = word = identifier(name, default)
        number = 2
        while word.lower() in taken:
            word, number = f"{base}_{number}", number + 1
        taken.add(word.lower())
        result.append(word)
    return result


def _entry(program: Program, entry: Entry, name: str) -> list[str]:
    plan = EntryPlan(program, entry)
    rooms = [_with_room(plan, port) for port in entry.outputs]
    shapes = [port.type.shape for port in (*entry.inputs, *rooms)]
    symbols = sorted(
        symbols_of([extent for shape in shapes for extent in shape]), key=lambda symbol: symbol.name
    )
    taken: set[str] = set()
    dims = dict(
        zip(symbols, identifiers([symbol.name for symbol in symbols], "dim", taken), strict=True)
    )
    inputs = identifiers([port.name for port in entry.inputs], "input", taken)
    outputs = identifiers([port.name for port in entry.outputs], "output", taken)
    ports = [*zip(inputs, entry.inputs, strict=True), *zip(outputs, rooms, strict=True)]
    decided = [n for n, port in enumerate(entry.outputs) if port.type != rooms[n].type]
    actual = identifiers([f"{outputs[n]}_shape" for n in decided], "shape", taken)
    with_state = plan.needs_state
    call = "evaluate" if with_state and entry.name == "run" else identifier(entry.name, "entry")
    arguments = ["nl_context *context", *(["nl_state *state"] if with_state else [])]
    arguments += [f"int64_t {dim}" for dim in dims.values()]
    arguments += [f"const {_c_type(port)} *{word}" for word, port in ports[: len(inputs)]]
    arguments += [f"{_c_type(port)} *{word}" for word, port in ports[len(inputs) :]]
    arguments += [f"int64_t *{word}" for word in actual]
    handles = "context, state" if with_state else "context"
    body = [
        *_tensors("inputs", ports[: len(inputs)], dims),
        *_tensors("outputs", ports[len(inputs) :], dims),
    ]
    return [
        *(line for word, port in ports for line in _shape_constants(f"{name}_{call}_{word}".upper(), port)),
        "/* Returns NL_OK or an error code; last_error has the text. */",
        *(f"/* {outputs[n]} needs room for the most that data make of it; {word} receives its "
          "extents. */"
          for n, word in zip(decided, actual, strict=True)),
        f"static inline int32_t {name}_{call}({', '.join(arguments)}) {{",
        *body,
        f"    int32_t code_ = nl_api_of(context)->{call}({handles}, {_given('inputs', inputs)}, "
        f"{_given('outputs', outputs)});",
        *(f"    for (int32_t i_ = 0; i_ < {rooms[n].type.rank}; i_++) "
          f"{word}[i_] = outputs_shape{n}_[i_];"
          for n, word in zip(decided, actual, strict=True)),
        "    return code_;",
        "}", "",
    ]  # fmt: skip


def _with_room(plan: EntryPlan, port: Port) -> Port:
    """The port with the most that its extents can be."""
    return replace(port, type=port.type.with_shape(tuple(map(plan.room, port.type.shape))))


def _given(side: str, words: Sequence[str]) -> str:
    return f"{side}_, {len(words)}" if words else "NULL, 0"


def _c_type(port: Port) -> str:
    return _C_TYPES.get(port.type.dtype, f"{port.type.dtype.value}_t")


def _shape_constants(prefix: str, port: Port) -> list[str]:
    lines = [f"#define {prefix}_RANK {port.type.rank}"]
    for axis, extent in enumerate(port.type.shape):
        if isinstance(extent, int):
            lines.append(f"#define {prefix}_DIM{axis} {extent}")
    return lines


def _tensors(side: str, ports: Sequence[tuple[str, Port]], dims: dict[Symbol, str]) -> list[str]:
    if not ports:
        return []
    lines = []
    for number, (_, port) in enumerate(ports):
        extents = ", ".join(_c_extent(extent, dims) for extent in port.type.shape) or "0"
        lines.append(f"    int64_t {side}_shape{number}_[] = {{{extents}}};")
    rows = [
        _tensor(f"{side}_shape{number}_", word, port) for number, (word, port) in enumerate(ports)
    ]
    return [*lines, f"    DLTensor {side}_[] = {{{', '.join(rows)}}};"]


def _tensor(shape: str, word: str, port: Port) -> str:
    code, bits = abi.DLPACK_CODES[port.type.dtype.value]
    return (
        f"{{(void *){word}, {{1, 0}}, {port.type.rank}, {{{code}, {bits}, 1}}, {shape}, NULL, 0}}"
    )


def _c_extent(extent: Extent, dims: dict[Symbol, str]) -> str:
    """The extent as a C expression; quotients of negative numbers do not occur in shapes that a
    program accepts.
    """
    if isinstance(extent, int):
        return str(extent)
    terms = []
    for atoms, factor in extent.terms:
        factors = [_c_atom(atom, dims) for atom in atoms]
        terms.append(" * ".join([f"({factor})" if factor < 0 else str(factor), *factors]))
    return " + ".join(terms)


def _c_atom(atom: Symbol | Quotient | Remainder | Minimum, dims: dict[Symbol, str]) -> str:
    match atom:
        case Symbol():
            return dims[atom]
        case Quotient(numerator, divisor):
            return f"(({_c_extent(numerator, dims)}) / {divisor})"
        case Remainder(numerator, divisor):
            return f"(({_c_extent(numerator, dims)}) % {divisor})"
        case Minimum(left, right):
            a, b = f"({_c_extent(left, dims)})", f"({_c_extent(right, dims)})"
            return f"({a} < {b} ? {a} : {b})"
