"""The one door: a path in, a `Descriptor` out, or every fault that was found."""

from __future__ import annotations

from pathlib import Path

from shirako.descriptor.build import build_descriptor
from shirako.descriptor.document import open_document
from shirako.descriptor.grammar import load_grammar
from shirako.descriptor.inventory import check_inventory
from shirako.descriptor.keys import check_keys
from shirako.descriptor.limits import check_limits
from shirako.descriptor.mirrors import check_mirrors
from shirako.descriptor.model import Descriptor, DescriptorInvalid
from shirako.descriptor.plugins import check_plugins
from shirako.descriptor.references import check_references
from shirako.descriptor.structure import check_structure
from shirako.descriptor.tls import check_tls
from shirako.descriptor.values import check_values


def read_descriptor(path: Path, *, keys: bool = True) -> Descriptor:
    """Read and check `actors.xml`.

    With `keys=False` key files and certificates may be absent, for the commands that make them;
    those that are there are checked. Raises `DescriptorInvalid` with all faults, in the order of
    the file; a file that is not even XML has one.
    """
    document = open_document(path)
    grammar = load_grammar()
    faults = [
        *check_structure(document, grammar),
        *check_values(document, grammar),
        *check_references(document),
        *check_inventory(document),
        *check_plugins(document),
        *check_keys(document, required=keys),
        *check_tls(document, required=keys),
        *check_mirrors(document, required=keys),
        *check_limits(document),
    ]
    if faults:
        raise DescriptorInvalid(tuple(sorted(faults, key=lambda fault: fault.line)))
    return build_descriptor(document, grammar)
