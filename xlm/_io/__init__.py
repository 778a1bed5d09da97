"""Files and digests: what every package needs and none owns."""
