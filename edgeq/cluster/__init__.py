"""Work handed out to the actors of a Ray cluster that is there: the one place where Ray is used.

The driver hands out tasks, one at a time to each actor, until all are done. An actor opens what it needs once. So
anything may die:

- an actor or its node: another one is started, and the task is handed out again;
- the driver: Ray ends its actors; what they had done, the caller has kept or has not.

No cluster is ever started.
"""
