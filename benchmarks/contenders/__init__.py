"""One file a library (or two, where images need other code than vectors)."""
