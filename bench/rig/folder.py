"""A folder with a descriptor of three actors, a site, a broker and a guest, and with their keys."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import psycopg
from psycopg import sql

from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Role
from shirako.actors.room import RECORDS_MAX
from shirako.actors.service_manager import ServiceManager
from shirako.certificates import issue, make_authority
from shirako.clock import RealClock, utc
from shirako.descriptor import AuthoritySpec, read_descriptor
from shirako.testbed.ports import free_ports
from shirako.testbed.postgres import USER, Postgres
from shirako.trust import PrivateKey, me_of, party_of
from shirako_policies.first_come import FirstCome
from shirako_policies.first_fit import FirstFit
from shirako_policies.static import Static

ACTORS = ("site", "broker", "guest")
SKEW = 30
LEASES_MAX = RECORDS_MAX
"""Of the one guest that there is."""

_DESCRIPTOR = """\
<actors xmlns="urn:shirako:actors:1" state="state"{ledger}>
  <authority name="site" url="{scheme}://127.0.0.1:{ports[0]}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit">
      <driver name="null"/><units prefix="n" count="{units}"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="{units}"/>
  </authority>
  <broker name="broker" url="{scheme}://127.0.0.1:{ports[1]}" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="{scheme}://127.0.0.1:{ports[2]}" key="keys/guest.jwk"
                   demand="static"/>
  <edge from="site" to="broker"/><edge from="broker" to="guest"/>
  {tls}
  <limits leases-a-guest="{most}"/>
</actors>
"""
_TLS = '<tls certificates="certs" mutual="true"/>'


class Folder:
    """One that was written by `make`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = path / "actors.xml"

    @classmethod
    def make(cls, path: Path, units: int, *, ledger: str = "", tls: bool = False) -> Folder:
        """`ledger`: the URL of a database for the ledgers; else they are SQLite files. `tls`:
        mutual, with certificates."""
        folder = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        for name in ACTORS:
            PrivateKey.generate().write(folder.key(name))
        if tls:
            make_certificates(path / "certs")
        folder.write(folder.descriptor, units, ledger=ledger, tls=tls)
        return folder

    def write(self, descriptor: Path, units: int, *, ledger: str = "", tls: bool = False) -> None:
        """Write a descriptor; each has addresses of its own."""
        ports = free_ports(("127.0.0.1",), seed=str(descriptor))
        descriptor.write_text(
            _DESCRIPTOR.format(
                ports=[next(ports) for _ in ACTORS],
                units=units,
                scheme="https" if tls else "http",
                ledger=f" ledger={quoteattr(ledger)}" if ledger else "",
                tls=_TLS if tls else "",
                most=LEASES_MAX,
            )
        )

    def key(self, name: str) -> Path:
        return self.path / "keys" / f"{name}.jwk"

    def file(self, name: str) -> Path:
        """The ledger of an actor, where it is a file."""
        return self.path / "state" / f"{name}.sqlite"

    def where(self, name: str) -> str | Path:
        """The ledger of an actor, as `open_ledger` takes it."""
        return read_descriptor(self.descriptor).ledger or self.file(name)

    def ledger_bytes(self, name: str) -> int:
        """How much room the ledger takes, with its indexes and, on a server, its dead rows."""
        where = self.where(name)
        if isinstance(where, Path):
            return sum(file.stat().st_size for file in where.parent.glob(f"{where.name}*"))
        size = """
            SELECT sum(pg_total_relation_size(pg_class.oid))::bigint
            FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid
            WHERE nspname = %s AND relkind = 'r'
        """
        with psycopg.connect(where) as db:
            return int(db.execute(size, (f"shirako_{name}",)).fetchall()[0][0])

    def table_bytes(self, name: str) -> dict[str, int]:
        """Bytes of the pages of each table of a file, with its index. Empty where SQLite can not
        tell."""
        db = sqlite3.connect(self.file(name))
        try:
            rows = db.execute(
                "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) "
                "GROUP BY 1"
            )
            return dict(rows.fetchall())
        except sqlite3.OperationalError:  # compiled without dbstat
            return {}
        finally:
            db.close()

    def roles(self) -> dict[str, Role[Any]]:
        """The three roles, empty, as the descriptor has them."""
        specs = {spec.name: spec for spec in read_descriptor(self.descriptor).actors}
        keys = {name: PrivateKey.read(self.key(name)) for name in ACTORS}
        parties = {name: party_of(keys[name].public, specs[name].url, name) for name in ACTORS}
        me = {name: me_of(keys[name], parties[name], SKEW) for name in ACTORS}
        near = {name: {party.kid: party} for name, party in parties.items()}
        site = specs["site"]
        assert isinstance(site, AuthoritySpec)
        pools = {"node": tuple(unit.name for unit in site.pools[0].units)}
        return {
            "site": Authority(
                me["site"], near["broker"], pools, {"node": FirstFit()}, leases_a_guest=LEASES_MAX
            ),
            "broker": Broker(
                me["broker"], near["site"], near["guest"], FirstCome(), leases_a_guest=LEASES_MAX
            ),
            "guest": ServiceManager(me["guest"], near["broker"], Static(), joins=False),
        }


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate for each actor."""
    now = utc(RealClock().tick())
    make_authority(folder, "bench", now, 30)
    for name in ACTORS:
        issue(folder, name, ("127.0.0.1",), now, 20)


def new_database(server: Postgres, name: str, passfile: Path) -> str:
    """The URL, over loopback, of a new database: on one server ledgers of one name need one each.

    The password is put into `passfile`, as a descriptor wants it.
    """
    server.run(f"CREATE DATABASE {name} OWNER {USER}")
    passfile.touch(mode=0o600)
    passfile.write_text(f"127.0.0.1:{server.port}:*:{USER}:{server.password}\n")
    return f"postgresql://{USER}@127.0.0.1:{server.port}/{name}?passfile={passfile}"


def server_settings(server: Postgres) -> dict[str, str]:
    """What its version is, and what its durability rests on."""
    wanted = ("server_version", "fsync", "synchronous_commit", "full_page_writes")
    with psycopg.connect(server.url) as db:
        shown = {
            name: db.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchall()[0][0]
            for name in wanted
        }
    return {f"postgresql_{name}": str(value) for name, value in shown.items()}
