"""One small program for each tool: run in a fresh process by the interpreter that has the tool, one JSON line out."""
