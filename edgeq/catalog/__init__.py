"""A catalog: the embeddings of many images, in shards that other tools read, made so that nothing is done twice.

    DIR/
      img_emb/img_emb_0000.npy             float16 [rows, d], each row of length 1
      metadata/metadata_0000.parquet       the same rows: image_path, key, caption, width, height, bytes, and more
      damaged/damaged_0000.jsonl           the images of this shard that have no row, and why; where there are any
      shards/0000.json                     the shard is whole: rows and SHA-256 of its files
      removed.jsonl                        rows whose images are gone or were changed; readers leave them out
      catalog.json                         all of it, written when every shard is whole
      plan/settings.json                   whose embeddings these are, and how many images go into a shard
      plan/added_0000.parquet              which images, in their order; one row group for each shard
      plan/removed_0001.parquet            which of them were gone at a later look
      locks/                               held by the process that makes a shard; the kernel lets go of them

`img_emb` and `metadata` are laid out as clip-retrieval lays them out.

Why a plan: several processes, on several machines, look at the same images at different times, and a folder may grow in
between. The first of them writes down which image belongs to which shard, under a lock and in one step; the others read
that. A later look adds shards behind the last one. So no image is in two shards, and a shard's number never changes.

What is on the disk, and in which order: the two files of a shard, each synced before it gets its name, and the name
synced before the next is written; then the record. A record thus says the truth, whenever power is lost. A shard
without a record, or whose record does not agree with the files and the plan, is done again.
"""
