"""The search index over normalized embeddings: chosen by memory, built shard by shard, measured, served, swapped."""
