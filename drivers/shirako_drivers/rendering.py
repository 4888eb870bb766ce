"""Files that a site wants on a leased unit, rendered from Jinja2 templates."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from shirako.handlers import UnitJob, Unsuitable
from shirako_drivers.accounts import Account, host_name

MAX_CHARACTERS = 1 << 18
"""Of one rendered file."""

# The results are configuration files, not pages: there is no markup to escape for. The templates
# are the site's own; the sandbox is for what a guest's property could make of one that formats it,
# or counts to it.
_JINJA = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


class NodeFiles:
    """The built-in message of the day, and the files of the site's own folder.

    The folder mirrors the node's root: `etc/motd.j2` becomes `/etc/motd`. Templates see `unit`,
    `host_name`, `lease`, `slice`, `type`, `end_utc`, `user`, `properties`, `outputs` and `node`;
    a name that is not there is an error.
    """

    def __init__(self, folder: Path | None) -> None:
        """Read and compile the templates; raises OSError or `jinja2.TemplateError`."""
        motd = files("shirako_drivers") / "templates" / "motd.j2"
        self._templates = {"/etc/motd": _JINJA.from_string(motd.read_text("utf-8"))}
        if folder is not None:
            if not folder.is_dir():
                raise NotADirectoryError(folder)
            for path in sorted(folder.rglob("*.j2")):
                target = f"/{path.relative_to(folder).with_suffix('')}"
                self._templates[target] = _JINJA.from_string(path.read_text("utf-8"))

    @property
    def paths(self) -> tuple[str, ...]:
        """Absolute paths of the files."""
        return tuple(self._templates)

    def render(self, job: UnitJob, account: Account) -> dict[str, str]:
        """Text by absolute path. Raises `Unsuitable`: on another unit it would go no better."""
        known: dict[str, object] = {
            "unit": job.unit,
            "host_name": host_name(job),
            "lease": job.lease,
            "slice": job.slice,
            "type": job.type,
            "end_utc": f"{datetime.fromtimestamp(job.end, UTC):%Y-%m-%d %H:%M:%S UTC}",
            "user": account.name,
            "properties": dict(job.properties),
            "outputs": dict(job.outputs),
            "node": dict(job.node),
        }
        return {path: _text(path, template, known) for path, template in self._templates.items()}


def _text(path: str, template: Template, known: dict[str, object]) -> str:
    text = ""
    try:
        for piece in template.generate(known):
            text += piece
            if len(text) > MAX_CHARACTERS:
                break
    # Whatever Python can raise, a template's expressions can.
    except Exception as error:
        raise Unsuitable(f"the template of {path}: {str(error) or type(error).__name__}") from error
    if len(text) > MAX_CHARACTERS:
        raise Unsuitable(f"the template of {path} makes more than {MAX_CHARACTERS} characters")
    return text
