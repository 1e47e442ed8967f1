"""The same work with this package, its peers and hand-written code; `make bench` runs it."""
