"""From a tree without a fault to the model. Nothing here can fail: all was checked before."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from lxml import etree

from shirako.descriptor.document import Document
from shirako.descriptor.grammar import Grammar, children, local_name, value_of
from shirako.descriptor.inventory import name_units
from shirako.descriptor.limits import build_limits
from shirako.descriptor.mirrors import build_mirror
from shirako.descriptor.model import (
    AuthoritySpec,
    BrokerSpec,
    DelegationSpec,
    DemandSpec,
    Descriptor,
    Edge,
    PeerSpec,
    Plugin,
    PoolSpec,
    Role,
    ServiceManagerSpec,
    TlsSpec,
    UnitSpec,
)
from shirako.descriptor.plugins import own_attributes
from shirako.descriptor.values import (
    read_count,
    read_factor,
    read_instant,
    read_interval,
    read_skew,
    read_term,
    read_timeout,
)


def build_descriptor(document: Document, grammar: Grammar) -> Descriptor:
    return _Builder(document, grammar).descriptor()


class _Builder:
    def __init__(self, document: Document, grammar: Grammar) -> None:
        self._document = document
        self._grammar = grammar

    def descriptor(self) -> Descriptor:
        root = self._document.root
        return Descriptor(
            path=self._document.path,
            state=self._path(root, "state"),
            skew=read_skew(self._text(root, "skew")),
            ledger=root.get("ledger", ""),
            actors=tuple(
                self._actor(one) for one in children(root, "authority", "broker", "service-manager")
            ),
            peers=tuple(self._peer(one) for one in children(root, "peer")),
            edges=tuple(
                Edge(source=value_of(one, "from"), target=value_of(one, "to"), line=self._line(one))
                for one in children(root, "edge")
            ),
            tls=next((self._tls(one) for one in children(root, "tls")), None),
            limits=build_limits(root, self._text),
        )

    def _actor(self, element: etree._Element) -> AuthoritySpec | BrokerSpec | ServiceManagerSpec:
        name, url = value_of(element, "name"), self._url(element)
        key, line = self._path(element, "key"), self._line(element)
        role = local_name(element)
        mirror = build_mirror(element, self._document.path.parent, self._text)
        if role == "authority":
            return AuthoritySpec(
                name=name,
                role="authority",
                url=url,
                key=key,
                mirror=mirror,
                line=line,
                pools=tuple(self._pool(one) for one in children(element, "pool")),
                delegations=tuple(self._delegation(one) for one in children(element, "delegation")),
            )
        if role == "broker":
            return BrokerSpec(
                name=name,
                role="broker",
                url=url,
                key=key,
                mirror=mirror,
                line=line,
                allocation=self._policy(element, "allocation"),
            )
        return ServiceManagerSpec(
            name=name,
            role="service-manager",
            url=url,
            key=key,
            mirror=mirror,
            line=line,
            demand=self._policy(element, "demand"),
            guest_drivers=tuple(self._plugin(one) for one in children(element, "guest-driver")),
            leases=tuple(self._demand(one) for one in children(element, "lease")),
        )

    def _peer(self, element: etree._Element) -> PeerSpec:
        return PeerSpec(
            name=value_of(element, "name"),
            role=cast(Role, value_of(element, "role")),
            url=self._url(element),
            key=self._path(element, "key"),
            line=self._line(element),
        )

    def _tls(self, element: etree._Element) -> TlsSpec:
        return TlsSpec(
            certificates=self._path(element, "certificates"),
            mutual=self._text(element, "mutual") == "true",
            ca=self._path(element, "ca") if element.get("ca") is not None else None,
            line=self._line(element),
        )

    def _pool(self, element: etree._Element) -> PoolSpec:
        return PoolSpec(
            type=value_of(element, "type"),
            properties={
                value_of(one, "name"): value_of(one, "value")
                for one in children(element, "property")
            },
            units=tuple(
                unit for one in children(element, "unit", "units") for unit in self._units(one)
            ),
            drivers=tuple(self._plugin(one) for one in children(element, "driver")),
            assignment=self._policy(element, "assignment"),
            setup_timeout=float(read_timeout(self._text(element, "setup-timeout"))),
            teardown_timeout=float(read_timeout(self._text(element, "teardown-timeout"))),
            attempts=int(self._text(element, "attempts")),
            probe=float(read_interval(self._text(element, "probe"))),
            line=self._line(element),
        )

    def _units(self, element: etree._Element) -> list[UnitSpec]:
        attributes = own_attributes(element, "name", "prefix", "count")
        line = self._line(element)
        return [
            UnitSpec(name=name, attributes=attributes, line=line) for name in name_units(element)
        ]

    def _delegation(self, element: etree._Element) -> DelegationSpec:
        return DelegationSpec(
            name=value_of(element, "name"),
            to=value_of(element, "to"),
            type=value_of(element, "type"),
            units=read_count(value_of(element, "units")),
            start=_instant(element, "start"),
            end=_instant(element, "end"),
            overbooking=read_factor(self._text(element, "overbooking")),
            line=self._line(element),
        )

    def _demand(self, element: etree._Element) -> DemandSpec:
        return DemandSpec(
            name=value_of(element, "name"),
            slice=value_of(element, "slice"),
            type=value_of(element, "type"),
            units=read_count(value_of(element, "units")),
            duration=timedelta(seconds=read_term(value_of(element, "for"))),
            start=_instant(element, "start"),
            renew=self._text(element, "renew") == "true",
            ssh_keys=tuple(self._path(one, "file") for one in children(element, "ssh-key")),
            line=self._line(element),
        )

    def _policy(self, element: etree._Element, kind: str) -> Plugin:
        short = element.get(kind)
        if short is None:
            return self._plugin(children(element, kind)[0])
        return Plugin(name=short, options={}, line=self._line(element))

    def _plugin(self, element: etree._Element) -> Plugin:
        return Plugin(
            name=value_of(element, "name"),
            options=own_attributes(element, "name"),
            line=self._line(element),
        )

    def _line(self, element: etree._Element) -> int:
        return self._document.lines[element]

    def _text(self, element: etree._Element, name: str) -> str:
        """The attribute, or the schema's default for it."""
        text = element.get(name)
        return self._grammar.default(local_name(element), name) if text is None else text

    def _path(self, element: etree._Element, name: str) -> Path:
        return self._document.path.parent / value_of(element, name)

    def _url(self, element: etree._Element) -> str:
        return value_of(element, "url").rstrip("/")


def _instant(element: etree._Element, name: str) -> datetime | None:
    text = element.get(name)
    return None if text is None else read_instant(text)
