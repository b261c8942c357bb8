"""Shard URIs to a list of shards, one shard to verified samples, bytes to pixels."""
