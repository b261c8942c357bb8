"""A classifier as two functions: images to a feature map, feature map to logits."""
