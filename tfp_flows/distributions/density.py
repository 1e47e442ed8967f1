"""What follows from a log-density."""

from __future__ import annotations

import tensorflow as tf


class Density:
    """`prob` and `unnormalized_log_prob` of a `tfd.Distribution` that checks values in `log_prob`.

    TFP's own would cast the values first, integers included.
    """

    def _prob(self, value, **kwargs):
        return tf.exp(self._log_prob(value, **kwargs))

    def _call_prob(self, value, name, **kwargs):
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _call_unnormalized_log_prob(self, value, name, **kwargs):  # pinned joint models ask for it
        return self._call_log_prob(value, name, **kwargs)
