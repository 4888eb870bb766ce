"""Where the ledgers under test are."""

from homes import make_home, place, postgres, slapd

__all__ = ["make_home", "place", "postgres", "slapd"]
