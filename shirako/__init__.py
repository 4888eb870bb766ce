"""Shirako: sites delegate machines, brokers ticket them, guests lease them.

core/       pure: terms, claims, messages, calendar, the three state tables
trust       keys, signatures, and what they prove
ledger/     durable state; transport/ how actors reach each other; handlers: what a driver promises
actors/     the shell around the core: take events, commit, then perform
descriptor  actors.xml; api: REST on each actor; assembly: descriptor to running actors
client, testbed/, cli/   for people and their programs
"""

__version__ = "0.1.0"
