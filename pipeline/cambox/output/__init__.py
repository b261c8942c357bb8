"""What is published: one Parquet file for each shard, written whole, and read back."""
