"""The language half of a model: where its tensors lie, and how a checkpoint of it is written."""
