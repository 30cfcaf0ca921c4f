"""The Python API: what `import edgeq` gives, and what the verbs of the command line call.

`workshop` needs the packages of the workshop, `device` does not. `edgeq.__getattr__` loads a module when one of its
names is asked for.
"""
