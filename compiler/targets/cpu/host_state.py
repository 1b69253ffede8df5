"""States (parameters, optimizer state, generator key, step count), in the host layer."""

from __future__ import annotations

from netloom import abi

from ...program import ALIGNMENT
from .host import I32, I64, PTR, Function, Record, Word
from .host_module import HostModule
from .host_tables import STATE_PORT
from .host_types import MODEL, STATE, TENSOR, size_of


class States:
    """Writes the functions of the API that concern states."""

    def __init__(self, host: HostModule) -> None:
        self.host = host
        self.new_state = self._new_state()
        self.view = self._view()

    def _new_state(self) -> Function:
        """Room for a state; NULL if there is no memory."""
        code = Function(self.host.module, "new_state", PTR, {"model": PTR})
        memory, size = code.variable(PTR), self.host.data(code)["state_bytes"]
        state = code.call(self.host.library["calloc"], 1, size_of(code, STATE)).record(STATE)
        with code.if_(state.word.equals(0)):
            code.return_(0)
        failed = code.call(
            self.host.library["posix_memalign"],
            memory.address(0),
            ALIGNMENT,
            code.select(size < ALIGNMENT, ALIGNMENT, size),
        )
        with code.if_(failed.differs(0)):
            code.call(self.host.library["free"], state.word)
            code.return_(0)
        state["api"], state["model"], state["memory"] = (
            code.address_of(self.host.api),
            code["model"],
            memory[0],
        )
        code.return_(state.word)
        return code

    def _create_state(self, code: Function, result: str, model: Word) -> Record:
        code[result].array(PTR)[0] = 0
        state = code.call(self.new_state, model).record(STATE)
        with code.if_(state.word.equals(0)):
            self.host.refuse(
                code,
                "NL_ERROR_MEMORY",
                "%lld bytes of memory for a state could not be allocated.",
                self.host.data(code)["state_bytes"],
            )
        code[result].array(PTR)[0] = state.word
        return state

    def api_state_create(self, code: Function) -> None:
        with code.if_(code["model"].equals(0) | code["state"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        if not self.host.shape.is_training:
            self.host.refuse(
                code,
                "NL_ERROR_UNSUPPORTED",
                "This program was built for inference only: it has no state.",
            )
            return
        state = self._create_state(code, "state", code["model"])
        constants = code["model"].record(MODEL)["constants"].array(PTR)
        with code.loop(self.host.data(code)["state_count"]) as index:
            port = self.host.data(code)["states"].record(STATE_PORT, index)
            code.call(
                self.host.library["memcpy"],
                state["memory"].offset(port["offset"]),
                constants[port["initial"]],
                port["size"],
            )
        code.return_(0)

    def api_state_copy(self, code: Function) -> None:
        with code.if_(code["state"].equals(0) | code["copy"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        source = code["state"].record(STATE)
        copy = self._create_state(code, "copy", source["model"])
        copy["step"] = source["step"]
        with code.loop(self.host.data(code)["state_count"]) as index:
            port = self.host.data(code)["states"].record(STATE_PORT, index)
            offset = port["offset"]
            code.call(
                self.host.library["memcpy"],
                copy["memory"].offset(offset),
                source["memory"].offset(offset),
                port["size"],
            )
        code.return_(0)

    def api_state_destroy(self, code: Function) -> None:
        with code.if_(code["state"].differs(0)):
            code.call(self.host.library["free"], code["state"].record(STATE)["memory"])
            code.call(self.host.library["free"], code["state"])
        code.return_()

    def api_parameter_count(self, code: Function) -> None:
        code.return_(self.host.data(code)["state_count"].to(I32))

    def api_parameter_name(self, code: Function) -> None:
        index = code["index"].to(I64)
        with code.if_((index < 0) | (index >= self.host.data(code)["state_count"])):
            code.return_(0)
        code.return_(self.host.data(code)["states"].record(STATE_PORT, index)["name"])

    def _view(self) -> Function:
        """Fills in a DLTensor over tensor number index."""
        code = self.host.function("view", state=PTR, index=I32, view=PTR)
        index = code["index"].to(I64)
        wrong = (index < 0) | (index >= self.host.data(code)["state_count"])
        with code.if_(wrong | code["state"].equals(0) | code["view"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        port, view = (
            self.host.data(code)["states"].record(STATE_PORT, index),
            code["view"].record(TENSOR),
        )
        view["data"] = code["state"].record(STATE)["memory"].offset(port["offset"])
        device = view.inner("device")
        device["device_type"], device["device_id"] = 1, 0
        view["ndim"], view["shape"], view["strides"], view["byte_offset"] = (
            port["rank"],
            port["shape"],
            0,
            0,
        )
        view.address("dtype").array(I32)[0] = port["dtype"]
        code.return_(0)
        return code

    def api_parameter(self, code: Function) -> None:
        code.return_(code.call(self.view, code["state"], code["index"], code["view"]))

    def api_parameter_by_name(self, code: Function) -> None:
        with code.if_(code["name"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        with code.loop(self.host.data(code)["state_count"]) as index:
            port = self.host.data(code)["states"].record(STATE_PORT, index)
            with code.if_(
                code.call(self.host.library["strcmp"], port["name"], code["name"]).equals(0)
            ):
                code.return_(code.call(self.view, code["state"], index.to(I32), code["view"]))
        code.return_(abi.CODE["NL_ERROR_ARGUMENT"])

    def api_step(self, code: Function) -> None:
        code.return_(code["state"].record(STATE)["step"])

    def api_set_step(self, code: Function) -> None:
        code["state"].record(STATE)["step"] = code["step"]
        code.return_()
