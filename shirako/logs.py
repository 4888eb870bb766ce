"""How the log is written: one line a record, whatever strangers put into what it tells."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_CONTROLS |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}
_LINES = {code: text for code, text in _CONTROLS.items() if code not in (ord("\n"), ord("\t"))}


class OneLine(logging.Formatter):
    """Writes control characters out, so that no record can look like another or steer a terminal.

    A traceback keeps its lines, indented: none of them begins as a record does.
    """

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        record.message = record.message.translate(_CONTROLS)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 -- logging's name
        told = super().formatException(ei)  # type: ignore[arg-type] # typeshed has it private
        return "\n".join(f"  {line}" for line in told.translate(_LINES).split("\n"))


def write_to_standard_error(*, verbose: bool) -> None:
    """What a process of actors does with its log."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
