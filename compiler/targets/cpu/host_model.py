"""Models, in the host layer: the choice of the CPU level, and constants in place or expanded into
anonymous memory.

Of a program's levels the highest that the machine has is used. Where there are several, the
environment variable NETLOOM_CPU may name one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from netloom import abi

from .host import I8, I32, I64, PTR, VOID, Array, Function, Record, Word
from .host_module import HostModule
from .host_tables import ENTRY, LEVEL, PIECE, PLACEMENT, SYMBOL
from .host_types import MODEL


class Models:
    """Writes the functions of the API that concern models; ``missing_features``: for each level
    () -> name or NULL.
    """

    def __init__(self, host: HostModule, missing_features: Sequence[Function]) -> None:
        self.host, self.missing_features = host, missing_features
        self.fill = self._fill()
        self.release = self._release()

    def _fill(self) -> Function:
        """Repeats 8 bytes over fresh (zero) memory."""
        code = Function(
            self.host.module, "fill", VOID, {"memory": PTR, "pattern": I64, "size": I64}
        )
        memory, pattern, size = code["memory"], code["pattern"], code["size"]
        with code.if_(pattern.differs(0)):
            whole = size // 8
            with code.loop(whole) as index:
                memory.array(I64)[index] = pattern
            rest = code.variable(I64, pattern)
            code.call(
                self.host.library["memcpy"], memory.offset(whole * 8), rest.address(0), size % 8
            )
        code.return_()
        return code

    def _release(self) -> Function:
        code = Function(self.host.module, "release", VOID, {"model": PTR})
        model = code["model"].record(MODEL)
        with code.if_(model["memory"].differs(0)):
            expanded_bytes = self.host.data(code)["expanded_bytes"]
            code.call(self.host.library["munmap"], model["memory"], expanded_bytes)
        code.call(self.host.library["free"], model["constants"])
        code.call(self.host.library["free"], model.word)
        code.return_()
        return code

    def api_open(self, code: Function) -> None:
        with code.if_(code["model"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        code["model"].array(PTR)[0] = 0
        level = self._chosen_level(code)
        model = self.host.allocate(code, MODEL)
        model["api"] = code.address_of(self.host.api)
        model["metadata"] = level["metadata"]
        data = self.host.data(code)
        model["entries"] = data["entries"].record(ENTRY, level["first"]).word
        count, expanded_bytes = data["placement_count"], data["expanded_bytes"]
        model["constants"] = self.host.allocated(code, count + 1, 8)
        with code.if_(expanded_bytes > 0):
            memory = code.call(self.host.library["mmap"], 0, expanded_bytes, 3, 0x22, -1, 0)
            with code.if_(memory.to(I64).equals(-1)):
                code.call(self.release, model.word)
                self.host.refuse(
                    code,
                    "NL_ERROR_MEMORY",
                    "%lld bytes of memory for constants could not be allocated.",
                    expanded_bytes,
                )
            model["memory"] = memory
        with code.loop(count) as index:
            placement = data["placements"].record(PLACEMENT, index)
            with code.if_(placement["in_place"].differs(0)):
                model["constants"].array(PTR)[index] = data["weights"].offset(placement["offset"])
            with code.if_(placement["in_place"].equals(0)):
                self._expand(code, placement, model["memory"].offset(placement["offset"]))
                model["constants"].array(PTR)[index] = model["memory"].offset(placement["offset"])
        with code.if_(expanded_bytes > 0):
            code.call(self.host.library["mprotect"], model["memory"], expanded_bytes, 1)
        code["model"].array(PTR)[0] = model.word
        code.return_(0)

    def _chosen_level(self, code: Function) -> Record:
        """The highest level that the machine has, or the one that was asked for; else an error."""
        wanted = self._wanted_level(code) if len(self.host.shape.levels) > 1 else None
        chosen, missing = code.variable(I64, -1), code.variable(PTR)
        for number in reversed(range(len(self.host.shape.levels))):
            is_free = chosen[0] < 0
            if wanted is not None:
                is_free = is_free & ((wanted[0] < 0) | wanted[0].equals(number))
            with code.if_(is_free):
                missing[0] = code.call(self.missing_features[number])
                chosen[0] = code.select(missing[0].equals(0), number, -1)
        with code.if_(chosen[0] < 0):
            self.host.refuse(
                code,
                "NL_ERROR_CPU",
                "This program needs the CPU feature %s, which this machine lacks. Compile it for this machine.",
                missing[0],
            )
        return self.host.data(code)["levels"].record(LEVEL, chosen[0])

    def _wanted_level(self, code: Function) -> Array:
        """The number of the level that NETLOOM_CPU names, or -1 if it is absent or empty."""
        wanted = code.variable(I64, -1)
        name = code.call(
            self.host.library["getenv"], code.address_of(self.host.text("NETLOOM_CPU"))
        )
        with code.if_(name.differs(0)), code.if_(name.array(I8)[0].differs(0)):
            names = [level for level, _ in self.host.shape.levels]
            for number, level in enumerate(names):
                differs = code.call(
                    self.host.library["strcmp"],
                    name,
                    code.address_of(self.host.text(level)),
                )
                with code.if_(differs.equals(0)):
                    wanted[0] = number
            with code.if_(wanted[0] < 0):
                levels = ", ".join(names)
                text = "NETLOOM_CPU asks for %.80s, but this program is compiled for %s."
                self.host.refuse(
                    code, "NL_ERROR_ARGUMENT", text, name, code.address_of(self.host.text(levels))
                )
        return wanted

    def _expand(self, code: Function, placement: Record, memory: Word) -> None:
        position, data = code.variable(I64), self.host.data(code)
        position[0] = 0
        with code.loop(placement["pieces"]) as index:
            piece = data["pieces"].record(PIECE, placement["first"] + index)
            target = memory.offset(position[0])
            with code.if_(piece["is_fill"].differs(0)):
                code.call(self.fill, target, piece["pattern"], piece["size"])
            with code.if_(piece["is_fill"].equals(0)):
                source = data["weights"].offset(piece["offset"])
                code.call(self.host.library["memcpy"], target, source, piece["size"])
            position[0] = position[0] + piece["size"]

    def api_close(self, code: Function) -> None:
        with code.if_(code["model"].differs(0)):
            code.call(self.release, code["model"])
        code.return_()

    def api_metadata_json(self, code: Function) -> None:
        with code.if_(code["model"].equals(0)):
            code.return_(0)
        code.return_(code["model"].record(MODEL)["metadata"])

    def api_arena_bytes(self, code: Function) -> None:
        data = self.host.data(code)
        count, own = data["symbol_count"], data["own_dims"]
        dims, most = code["dims"].array(I64), code.variable(I64)
        with code.if_(code["model"].equals(0) | code["dim_count"].differs(count.to(I32))):
            code.return_(-1)
        with code.if_((count > 0) & code["dims"].equals(0)):
            code.return_(-1)
        symbols = code.allocate_here(I64, count + own + 1).array(I64)
        with code.loop(own) as number:  # the arena has room for the bounds of dims that runs bind
            symbols[count + number] = 0
        with code.loop(count) as index:
            symbol = data["symbols"].record(SYMBOL, index)
            with code.if_((dims[index] < symbol["lo"]) | (dims[index] > symbol["hi"])):
                code.return_(-1)
            symbols[index] = dims[index]
        values = code.allocate_here(I64, data["most_values"] + 1).array(I64)
        with code.loop(len(self.host.shape.entries)) as position:
            entry = code["model"].record(MODEL)["entries"].record(ENTRY, position)
            with code.if_(
                code.call(entry["compute_values"], symbols.address(0), values.address(0))
            ):
                code.return_(-1)
            size = values[entry["arena_bytes"]]
            most[0] = code.select(size > most[0], size, most[0])
        code.return_(most[0])
