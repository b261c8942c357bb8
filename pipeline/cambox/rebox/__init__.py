"""``cambox rebox``: new boxes from stored maps, with no image, no network and no GPU."""
