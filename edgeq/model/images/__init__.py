"""Images and their preprocessing: files, sets, streams, pixels."""
