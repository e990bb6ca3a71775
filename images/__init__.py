"""Image files: listing, decoding, the cache of pixels."""
