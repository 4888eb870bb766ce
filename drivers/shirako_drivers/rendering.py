"""Files that a site wants on a leased unit, rendered from Jinja2 templates."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, TemplateError

from shirako.handlers import HandlerFailed, UnitJob
from shirako_drivers.accounts import Account, host_name

# The results are configuration files, not pages: there is no markup to escape for.
_JINJA = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701


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

    def render(self, job: UnitJob, account: Account) -> dict[str, str]:
        """Text by absolute path; raises `HandlerFailed`."""
        known = {
            "unit": job.unit,
            "host_name": host_name(job),
            "lease": job.lease,
            "slice": job.slice,
            "type": job.type,
            "end_utc": f"{datetime.fromtimestamp(job.end, UTC):%Y-%m-%d %H:%M:%S UTC}",
            "user": account.name,
            "properties": job.properties,
            "outputs": job.outputs,
            "node": job.node,
        }
        rendered = {}
        for path, template in self._templates.items():
            try:
                rendered[path] = template.render(known)
            except TemplateError as error:
                raise HandlerFailed(f"the template of {path}: {error}") from error
        return rendered
