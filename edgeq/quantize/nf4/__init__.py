"""Language models in NF4, written shard by shard and read back."""
