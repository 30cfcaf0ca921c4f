"""Frames of films, cameras and folders: one contract for all sources, the newest of a stream, what is made of answers.

`base.py` is the contract, `registry.py` the list of sources: another one is a file beside them and a line there.
`reader.py` reads in a thread of its own, `looking.py` is the loop; `lines.py`, `overlay.py` and `hook.py` are where
answers go to.
"""
