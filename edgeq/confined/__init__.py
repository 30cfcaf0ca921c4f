"""Work on what cannot be trusted, in a process of its own that may be killed: bounded in time, memory and size.

A decoder, a template engine or a graph that somebody hostile feeds may compute for hours or ask for all memory there
is, inside a library where no signal of Python's is heard. Here such work is a named function of edgeq with plain data
in and out (`run_confined`, or `Pool` where it may not cost a start each time), in a child with limits of the kernel.
"""
