"""The shell around the core.

role                  an actor's books in memory: takes events, steps records, collects a batch
service_manager, broker, authority   the three roles: what messages mean, whom to ask, what to book
actor                 the loop: gather events, commit the batch, then perform
courier               delivers outgoing messages to one peer
handling              runs handlers
"""
