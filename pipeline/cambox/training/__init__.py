"""An output as a detector reads it in training: images and boxes from their shards."""
