"""Element-wise monotone maps that couplings and autoregressive bijectors apply."""
